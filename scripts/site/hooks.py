"""What the documentation site shows beside docs/; mkdocs calls the functions on_... (see mkdocs.yml).

- Pages that lie elsewhere in the repository, such as ARCHITECTURE.md, are pages of the site, too. Links between pages
  work in the site as they do in the repository. A link to a file that is no page becomes plain text.
- A line ``<!-- help of: run -->`` becomes what ``ascend-parallel run --help`` prints.
- Sphinx's marks in docstrings are left out: ``:class:`Outcome``` becomes ``Outcome``.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: Pages of the site that lie outside docs/, and the pictures of such pages.
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES += ("examples/sd21/README.md", "examples/cluster/README.md", "examples/ocr_pipeline/README.md")
PICTURES = ("benchmarks/*.png", "examples/sd21/*.png", "examples/ocr_pipeline/*.png", "examples/ocr_pipeline/*.svg")
HELP_TIMEOUT_S = 60.0  # a second, on a machine that is not busy

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_HELP = re.compile(r"^<!-- help of: (\w+) -->$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|meth|attr|func|data|mod):(<code>)~?")
_LITERAL_BLOCK = re.compile(r"<p>::</p>|:(?=:</p>)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside docs/."""
    pictures = [path.relative_to(ROOT).as_posix() for pattern in PICTURES for path in sorted(ROOT.glob(pattern))]
    for path in (*PAGES, *pictures):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make a page's links fit the site, and put in what --help prints."""
    moved = _LINK.sub(lambda link: move_link(link, page.file.src_uri, files), markdown)
    return _HELP.sub(lambda found: f"```text\n{help_of(found[1])}```", moved)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take Sphinx's marks out of docstrings."""
    return _LITERAL_BLOCK.sub("", _ROLE.sub(r"\1", html))


def move_link(link: re.Match[str], page: str, files: Files) -> str:
    """Return a link as it is in the site.

    Args:
        link: as it is in the repository.
        page: the page that it is on, as the site names it: ``"reference/api.md"``.
        files: all of the site.
    """
    here = page if page in PAGES else f"docs/{page}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link["path"]))
    if not (ROOT / path).exists():
        return link[0]  # to another site; a broken one is reported by mkdocs
    target = path.removeprefix("docs/")
    if files.get_file_from_path(target) is None:
        return link["text"]
    moved = posixpath.relpath(target, posixpath.dirname(page) or ".")
    return f"[{link['text']}]({moved}{link['anchor'] or ''})"


def help_of(command: str) -> str:
    """Return what a command's --help prints."""
    words = [sys.executable, "-m", "ascend_parallel", command, "--help"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=HELP_TIMEOUT_S).stdout
