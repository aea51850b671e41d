"""The documentation's pages, and what they hold: fenced blocks, links, headings, spans of code."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: The pages whose blocks are run.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages whose links are checked, too.
OTHERS = [ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")]
OTHERS += [
    ROOT / folder / "README.md"
    for folder in ("benchmarks", "examples/sd21", "examples/cluster", "examples/ocr_pipeline")
]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>\w*)(?: +title=\"(?P<title>[^\"]+)\")? *$")
_COMMENT = re.compile(r"^ *<!-- (?P<text>.*) -->$")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$")
_CODE = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        where: page and line, for messages.
        language: what stands behind the fence; "" where nothing does.
        title: of a file that the block is.
        comment: the HTML comment on the line before; "" where there is none.
        text: its lines.
    """

    where: str
    language: str
    title: str
    comment: str
    text: str


def name_of(page):
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """Return the fenced blocks of a page."""
    blocks, open_at, comment, opened = [], None, "", None
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if opened is None and fence:
            before = _COMMENT.match(lines[number - 1]) if number else None
            opened, open_at, comment = fence, number, before["text"] if before else ""
        elif opened is not None and line.strip() == opened["fence"]:
            indent = len(opened["indent"])
            text = "".join(f"{inner[indent:]}\n" for inner in lines[open_at + 1 : number])
            where = f"{name_of(page)}:{open_at + 1}"
            blocks.append(Block(where, opened["language"], opened["title"] or "", comment, text))
            opened = None
    assert opened is None, f"{name_of(page)}:{open_at + 1}: a block is not closed"
    return blocks


def prose_of(page):
    """Return a page's lines, those of blocks left blank."""
    lines, fence = [], None
    for line in page.read_text().splitlines():
        is_fence = _FENCE.match(line) or line.strip() == fence
        if fence is None and is_fence:
            fence = is_fence["fence"]
            lines.append("")
        elif fence is not None:
            lines.append("")
            fence = None if line.strip() == fence else fence
        else:
            lines.append(line)
    return lines


def links_of(page):
    """Return (line number, target) of a page's links and pictures."""
    return [
        (number, link["target"])
        for number, line in enumerate(prose_of(page), 1)
        for link in _LINK.finditer(_CODE.sub("", line))
    ]


def spans_of(page):
    """Return (line number, text) of what stands between single backticks."""
    return [(number, span) for number, line in enumerate(prose_of(page), 1) for span in _CODE.findall(line)]


def anchors_of(page):
    """Return what a link to a heading of a page may say, in GitHub's spelling and in mkdocs'."""
    anchors = set()
    for line in prose_of(page):
        heading = _HEADING.match(line)
        if heading:
            plain = re.sub(r"[^\w\s-]", "", heading["text"].lower()).strip()
            anchors |= {plain.replace(" ", "-")} & {re.sub(r"[-\s]+", "-", plain)}
    return anchors
