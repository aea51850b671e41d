"""The page of pictures, in a real browser."""

import base64
import re

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from ..browser import chromium, element, set_colors, set_width, text, wait
from ..servers import serving
from ..test_page import CONTRASTS
from .conftest import TINY
from .pictures import assert_same, read_png

PROMPT = "a blue square on pink"
#: Notes each picture that the page shows.
WATCH = """
window.shown = [];
new MutationObserver((changes) => {
  for (const { target } of changes) if (target.matches("img")) window.shown.push([target.src, target.alt]);
}).observe(document.querySelector("#pictures"), { subtree: true, attributeFilter: ["src"] });
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser, server):
    """The page, open and ready; its console must be empty in the end."""
    browser.get(f"{server.url}/images")
    wait(browser, lambda: text(browser, "#state") == "ready")
    yield browser
    assert browser.get_log("browser") == []


def write(page, selector, value):
    page.execute_script("document.querySelector('details').open = true")
    field = element(page, selector)
    field.clear()
    field.send_keys(value)


def draw(page, **options):
    """Fill the form and press Draw; return what is told at the end."""
    for field, value in {"prompt": PROMPT, **options}.items():
        write(page, f"#{field}", str(value))
    element(page, "#draw").click()
    return end(page)


def end(page):
    wait(page, lambda: element(page, "#draw").is_enabled())
    return text(page, "#told"), text(page, "#draw-error")


def shown(page):
    """Return the pixels of the latest picture."""
    return read_png(element(page, "#pictures img").get_attribute("src").removeprefix("data:image/png;base64,"))


def test_the_picture_appears_step_by_step(page, draw_by_example):
    page.execute_script(WATCH)
    told, error = draw(page, seed=5, steps=20, previews=19)
    assert re.fullmatch(r"drawn in [\d.]+ s", told) and error == ""
    *partial, last = page.execute_script("return window.shown")
    assert len(partial) == 19 and {alt for _, alt in partial} == {f"{PROMPT}, not complete yet"}
    assert len({src for src, _ in partial}) == 19
    assert last[1] == PROMPT
    assert_same(shown(page), draw_by_example(PROMPT, 5, steps=20))
    assert text(page, "#pictures .prompt") == PROMPT
    assert text(page, "#pictures .details") == "seed 5, 64x64"
    assert not element(page, "#pictures progress").is_displayed()
    link = element(page, "#pictures a")
    assert link.get_attribute("download") == "a-blue-square-on-pink-5.png"
    data = link.get_attribute("href").partition(",")[2]
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_enter_draws_and_the_defaults_are_those_of_the_model(page):
    assert element(page, "#steps").get_attribute("value") == "30"
    assert element(page, "#guidance").get_attribute("value") == "4"
    element(page, "#prompt").send_keys(PROMPT, Keys.ENTER)
    assert end(page)[1] == ""
    assert len(page.find_elements(By.CSS_SELECTOR, "#pictures figure")) == 1
    page.execute_script("document.querySelector('details').open = true")
    Select(element(page, "#model")).select_by_value("open")
    sizes = [option.get_attribute("value") for option in Select(element(page, "#size")).options]
    assert sizes == ["64x64", "128x64", "64x128"]


def test_several_pictures_come_together(page):
    assert draw(page, count=3, seed=1, steps=5)[1] == ""
    details = [element.text for element in page.find_elements(By.CSS_SELECTOR, "#pictures .details")]
    assert sorted(details) == [f"seed {seed}, 64x64" for seed in (1, 2, 3)]


def test_it_can_be_stopped(page):
    for field, value in {"prompt": PROMPT, "steps": 999, "previews": 50}.items():
        write(page, f"#{field}", str(value))
    element(page, "#draw").click()
    wait(page, lambda: "step" in text(page, "#told"))
    assert element(page, "#pictures progress").get_attribute("value") is not None
    element(page, "#stop").click()
    assert end(page) == ("stopped", "")
    assert page.find_elements(By.CSS_SELECTOR, "#pictures figure") == []
    assert not element(page, "#stop").is_displayed()


def test_what_the_server_refuses_is_told(page):
    told, error = draw(page, prompt="red " * 80)
    assert (told, error) == ("", "prompt has 80 tokens; the model takes at most 75: shorten it")
    assert element(page, "#draw-error").aria_role == "alert"
    page.execute_script("document.querySelector('details').open = true")
    Select(element(page, "#model")).select_by_value("small")
    assert (
        draw(page, steps=999, count=2, previews=900)[1] == "the request was not answered within 1.5 s"
    )  # in the middle of the events
    page.get_log("browser")  # the status 400, which Chromium writes there itself


def test_texts_are_no_markup(page):
    draw(page, prompt="<i>a ring</i>", steps=1)
    assert text(page, "#pictures .prompt") == "<i>a ring</i>"
    assert page.find_elements(By.CSS_SELECTOR, "main i") == []


def test_nothing_comes_from_elsewhere(page, server):
    urls = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(urls) >= 4 and all(url.startswith((server.url, "data:")) for url in urls), urls


def test_the_pages_lead_to_each_other(page):
    element(page, "nav a").click()
    wait(page, lambda: element(page, "#images").is_displayed())
    element(page, "#images").click()
    wait(page, lambda: "pictures" in page.title and text(page, "#state") == "ready")


def test_a_screen_reader_has_a_name_for_everything(page):
    draw(page, seed=5, steps=2)
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = ("image", "progressbar", "textbox", "spinbutton", "combobox", "button", "link")
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert [role for role, name in found if role in named and not name] == []
    assert ("image", PROMPT) in found and ("link", f"Save {PROMPT}, seed 5") in found
    assert {("spinbutton", "Steps"), ("combobox", "Size"), ("textbox", "What not to draw")} <= {*found}


def test_the_keyboard_reaches_all(page):
    reached = []
    for _ in range(5):
        ActionChains(page).send_keys(Keys.TAB).perform()
        active = page.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text)
    assert reached == ["models", "API", "prompt", "Options", "draw"]


@pytest.mark.parametrize("width", [1100, 700, 320])
def test_it_fits_the_screen(page, width):
    draw(page, steps=1)
    set_width(page, width)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert element(page, "#draw").rect["width"] > 0
    finally:
        set_width(page, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(page, scheme):
    """WCAG 2's contrast of at least 4.5 to 1, of text on what is below it."""
    set_colors(page, scheme)
    draw(page, steps=1)
    page.execute_script("document.querySelector('#draw-error').textContent = 'an error'")
    page.execute_script("document.querySelector('#stop').hidden = false")
    low = page.execute_script(CONTRASTS)
    assert len(low) > 15 and [line for line in low if line[1] < 4.5] == []


def test_a_token_is_asked_for_and_a_lost_server_is_told(browser, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("open-sesame-0123456789\n")
    secret.chmod(0o600)
    config = tmp_path / "config.yml"
    config.write_text(f"token_file: token\nimages: [{{folder: {TINY}, devices: 'cpu:0', steps: 2}}]\n")
    with serving(config) as server:
        browser.get(f"{server.url}/images")
        wait(browser, lambda: text(browser, "#state") == "token needed")
        assert browser.switch_to.active_element.get_attribute("id") == "token"
        browser.switch_to.active_element.send_keys("wrong", Keys.ENTER)
        wait(browser, lambda: "does not take this token" in text(browser, "#token-error"))
        element(browser, "#token").clear()
        element(browser, "#token").send_keys("open-sesame-0123456789", Keys.ENTER)
        wait(browser, lambda: text(browser, "#state") == "ready")
        assert not element(browser, "#token-form").is_displayed()
        assert draw(browser)[1] == ""
        server.end()
        assert draw(browser) == ("", "The server does not answer.")
    browser.get_log("browser")  # the answers 401 and the lost connection, which Chromium writes there itself
