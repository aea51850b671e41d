"""The page of the server, in a real browser."""

import json
import re

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from .browser import chromium, element, set_colors, set_width, text, wait
from .servers import serving
from .serving_models import write_factories

#: What stands where there is no figure: a dash.
NONE = "\N{EN DASH}"
#: A name that is markup, if a page takes it for some.
NAME = "<i>m"

CONFIG = f"""
port: 0
allow_control: true
models:
  - {{path: "FACTORIES:moody", name: "{NAME}", devices: "cpu:0,1"}}
  - {{path: "FACTORIES:twice", name: other, devices: "cpu:0", instances: 2}}
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    return write_factories(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(factories, tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "config.yml"
    path.write_text(CONFIG.replace("FACTORIES", str(factories)))
    with serving(path) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser, server):
    """The page, open and with its first figures; its console must be empty in the end."""
    browser.get(f"{server.url}/")
    wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "article")) == 2)
    yield browser
    assert browser.get_log("browser") == []


def figure(page, card, name):
    """Return a figure's text by its name, of the first card or the second."""
    cells = page.find_elements(By.CSS_SELECTOR, "article")[card].find_elements(By.CSS_SELECTOR, ".figures div")
    return dict(cell.text.split("\n") for cell in cells)[name]


def choose(page, name):
    Select(element(page, "#model")).select_by_visible_text(f"{name}, version 1")


def write_inputs(page, inputs):
    field = element(page, "#inputs")
    field.clear()
    field.send_keys(inputs if isinstance(inputs, str) else json.dumps(inputs))


def tensor(*values):
    return [{"name": "x", "datatype": "FP32", "shape": [len(values), 1], "data": list(values)}]


def run(page):
    """Press Run; return (outputs, error, what is told of it)."""
    page.execute_script("document.querySelector('#took').textContent = ''")
    element(page, "#infer-form button").click()
    return answer(page)


def answer(page):
    wait(page, lambda: re.search("answered|error", text(page, "#took")) or text(page, "#infer-error"))
    return text(page, "#outputs"), text(page, "#infer-error"), text(page, "#took")


# ---- what it shows


def test_it_shows_models_devices_and_state(page):
    wait(page, lambda: text(page, "#state") == "ready")
    first, second = page.find_elements(By.CSS_SELECTOR, "article")
    words = " ".join(first.text.split())
    assert words.startswith(f"{NAME} version 1 ready")
    assert words.endswith("cpu:0 ready 0 % 0 0 cpu:1 ready 0 % 0 0")
    assert "cpu:0#1 ready" in second.text


def test_names_are_no_markup(page):
    assert text(page, "article .name") == NAME
    assert page.find_elements(By.CSS_SELECTOR, "main i") == []


def test_nothing_comes_from_elsewhere(page, server):
    urls = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(urls) >= 3 and all(url.startswith(server.url) for url in urls), urls


def test_figures_move_under_load(page, server):
    assert figure(page, 1, "p99 latency") == NONE
    for _ in range(30):
        server.infer("other", x=np.ones((2, 3), np.float32))
    wait(page, lambda: figure(page, 1, "rows/s") != "0")
    requests, rows = (float(figure(page, 1, name)) for name in ("requests/s", "rows/s"))
    assert rows == pytest.approx(2 * requests, rel=0.05)
    assert re.fullmatch(r"[\d.]+ (ms|s)", figure(page, 1, "p50 latency"))
    assert figure(page, 1, "rows a batch") == "2.00"
    second = page.find_elements(By.CSS_SELECTOR, "article")[1]
    assert second.find_element(By.CSS_SELECTOR, ".rate path").get_attribute("d").startswith("M")
    assert "requests a second of other: now" in second.find_element(By.CSS_SELECTOR, ".rate").get_attribute(
        "aria-label"
    )


def test_a_restart_of_a_worker_is_shown(page):
    choose(page, NAME)
    write_inputs(page, tensor(-2))  # kills its worker, and that which it is sent to again
    assert "SIGKILL" in run(page)[1]
    wait(page, lambda: sum(int(cell.text) for cell in page.find_elements(By.CSS_SELECTOR, "td.restarts")) > 0)
    wait(page, lambda: text(page, "#state") == "ready")
    assert int(figure(page, 0, "failed")) > 0
    page.get_log("browser")  # the status 500, which Chromium writes there itself


# ---- the form


def test_the_form_calls_the_model(page):
    choose(page, "other")
    write_inputs(page, tensor(1.5, -4))
    outputs, error, took = run(page)
    assert (outputs, error) == ("y FP32 [2, 1]\n3, -8", "")
    assert re.fullmatch(r"answered in [\d.]+ (ms|s)", took)


def test_an_example_is_there(page):
    choose(page, NAME)
    choose(page, "other")
    assert run(page)[:2] == ("y FP32 [1, 1]\n0", "")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("[{", "The inputs are not JSON"),
        ([{**tensor(1)[0], "shape": [3, 1]}], "3"),
        ([{**tensor(1)[0], "datatype": "<b>z"}], "<b>z"),
        (tensor(-1), "a row of -1"),
    ],
    ids=["no JSON", "wrong shape", "wrong datatype", "the model raises"],
)
def test_the_form_shows_errors(page, inputs, expected):
    choose(page, NAME)
    write_inputs(page, inputs)
    outputs, error, _ = run(page)
    assert expected in error and outputs == ""
    assert element(page, "#infer-error").aria_role == "alert"
    page.get_log("browser")  # the status, which Chromium writes there itself


def test_a_long_output_is_cut(page):
    choose(page, "other")
    page.execute_script("document.querySelector('#inputs').value = arguments[0]", json.dumps(tensor(*range(1200))))
    outputs = run(page)[0]
    assert outputs.endswith("1998, and 200 more")


def test_what_was_typed_stays_when_models_come_and_go(page, server):
    choose(page, NAME)
    write_inputs(page, "typed")
    assert server.request("POST", "/v2/repository/models/other/unload")[0] == 200
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "article")) == 1)
    assert len(Select(element(page, "#model")).options) == 1
    assert server.request("POST", "/v2/repository/models/other/load")[0] == 200
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "article")) == 2)
    assert element(page, "#inputs").get_attribute("value") == "typed"
    assert Select(element(page, "#model")).first_selected_option.text == f"{NAME}, version 1"


# ---- for everybody


def test_the_keyboard_reaches_all_and_runs(page):
    reached = []
    for _ in range(6):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.switch_to.active_element.get_attribute("id") or page.switch_to.active_element.text)
    assert reached == ["metrics", "API", "model", "inputs", "Run", "outputs"]
    choose(page, "other")
    write_inputs(page, tensor(21))
    page.execute_script("document.querySelector('#took').textContent = ''")
    element(page, "#inputs").send_keys(Keys.CONTROL, Keys.ENTER)
    assert answer(page)[0] == "y FP32 [1, 1]\n42"


def test_a_screen_reader_has_a_name_for_everything(page):
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = ("image", "meter", "textbox", "combobox", "button", "link", "article", "table", "columnheader", "rowheader")
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = {role for role, _ in found}
    assert {"image", "meter", "textbox", "button", "link", "article", "status", "columnheader", "rowheader"} <= roles
    assert [role for role, name in found if role in named and not name] == []
    assert ("meter", "load of cpu:1: 0 %") in found
    assert ("article", f"model {NAME} version 1") in found


@pytest.mark.parametrize("width", [1100, 700, 320])
def test_it_fits_the_screen(page, width):
    set_width(page, width)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert element(page, "#infer-form button").rect["width"] > 0
    finally:
        set_width(page, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(page, scheme):
    """WCAG 2's contrast of at least 4.5 to 1, of text on what is below it."""
    set_colors(page, scheme)
    page.execute_script("document.querySelector('#infer-error').textContent = 'an error'")
    low = page.execute_script(CONTRASTS)
    assert len(low) > 20 and [line for line in low if line[1] < 4.5] == []
    background = page.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert (background == "rgb(246, 247, 249)") == (scheme == "light")


CONTRASTS = """
const parts = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = parts(color).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const below = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if ((parts(color)[3] ?? 1) === 1) return color;
  }
};
const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
return [...document.querySelectorAll("body *")].filter((e) => hasText(e) && e.getClientRects().length).map((e) => {
  const [a, b] = [light(getComputedStyle(e).color), light(below(e))].sort((x, y) => y - x);
  return [`${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}`, (a + 0.05) / (b + 0.05)];
});
"""


# ---- a token, and a server that is gone


def test_a_token_is_asked_for_and_a_lost_server_is_told(browser, factories, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("open-sesame-0123456789\n")
    secret.chmod(0o600)
    with serving(f"{factories}:twice", "--name", "m", "--devices", "cpu:0", "--token-file", secret) as server:
        browser.get(f"{server.url}/")
        wait(browser, lambda: text(browser, "#state") == "token needed")
        assert browser.switch_to.active_element.get_attribute("id") == "token"
        browser.switch_to.active_element.send_keys("wrong", Keys.ENTER)
        wait(browser, lambda: "does not take this token" in text(browser, "#token-error"))
        field = element(browser, "#token")
        field.clear()
        field.send_keys("open-sesame-0123456789", Keys.ENTER)
        wait(browser, lambda: text(browser, "#state") == "ready")
        assert not element(browser, "#token-form").is_displayed()
        assert "open-sesame" not in browser.current_url
        write_inputs(browser, tensor(2))
        assert run(browser)[0] == "y FP32 [1, 1]\n4"
        element(browser, "#metrics").click()  # a link sends no token
        wait(browser, lambda: "ascend_parallel_inference_count" in browser.page_source)
        browser.back()
        wait(browser, lambda: text(browser, "#state") == "ready")
        server.end()
        wait(browser, lambda: text(browser, "#state") == "no connection")
        assert "stale" in element(browser, "main").get_attribute("class")
        element(browser, "#infer-form button").click()
        wait(browser, lambda: text(browser, "#infer-error") == "The server does not answer.")
    browser.get_log("browser")  # the answers 401 and the lost connection, which Chromium writes there itself
