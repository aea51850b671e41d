"""The documentation site: it is built strictly, its links lead somewhere, and the reference is complete."""

import ast
import html
import inspect
import os
import re
import subprocess
import sys

import pytest
from typer.main import get_group

import ascend_parallel
from ascend_parallel.cli.app import app

from .pages import OTHERS, PAGES, ROOT, anchors_of, links_of, name_of, spans_of

COMMANDS = get_group(app).commands
#: Options of the command line as a whole.
COMMON_OPTIONS = {"--help", "--version", "--debug"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_the_reference_has_every_public_name(site):
    page = site / "reference" / "api" / "index.html"
    for name in set(ascend_parallel.__all__) - {"__version__"}:
        assert f'id="ascend_parallel.{name}"' in page.read_text()
    text = text_of(page)
    for name in ("predict", "submit", "map", "run_predict", "empty", "stats", "build_model", "close"):
        assert f"{name}(" in text
    assert not re.findall(r":(?:class|meth|attr|func|data|mod):|::\n", text), "marks for Sphinx"


def test_the_reference_has_every_command_and_option(site):
    text = text_of(site / "reference" / "command-line" / "index.html")
    for name, command in COMMANDS.items():
        assert f"ascend-parallel {name} [OPTIONS]" in text
        for param in command.params:
            assert param.opts[0] in text


def test_pages_outside_docs_are_part_of_the_site(site):
    assert "side by side" in text_of(site / "benchmarks" / "index.html")
    assert (site / "benchmarks" / "peers.png").is_file()
    performance = (site / "performance" / "index.html").read_text()
    assert 'href="../benchmarks/#side-by-side"' in performance


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=name_of)
def test_links_lead_somewhere(page):
    for number, target in links_of(page):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)}:{number}: {target} is not there"
        assert found.is_relative_to(ROOT), f"{name_of(page)}:{number}: {target} is outside the repository"
        if anchor:
            assert anchor in anchors_of(found), f"{name_of(page)}:{number}: {name_of(found)} has no heading #{anchor}"


def options_of(words):
    """Return the options among words; underscores are dashes, as the command line takes them."""
    return {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_the_text_are_there(page):
    """In spans of code: `--resume`, or `ascend-parallel map --resume`, or the constructor called with keywords."""
    every = {option for command in COMMANDS.values() for param in command.params for option in param.opts}
    keywords = inspect.signature(ascend_parallel.ParallelPredictUtils).parameters
    for number, span in spans_of(page):
        where = f"{name_of(page)}:{number}: {span}"
        words = span.split()
        if span.startswith("--"):
            assert options_of(words) <= every | COMMON_OPTIONS, where
        elif words[0] == "ascend-parallel" and words[1].islower() and not words[1].startswith("--"):
            assert words[1] in COMMANDS, where
            own = {option for param in COMMANDS[words[1]].params for option in param.opts}
            assert options_of(words) <= own | COMMON_OPTIONS, where
        elif span.startswith("ParallelPredictUtils(") and "..." not in span:
            call = ast.parse(span, mode="eval").body
            assert {keyword.arg for keyword in call.keywords} <= set(keywords), where
