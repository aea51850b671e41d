"""The documentation: its blocks run, what it says they print is printed, its links lead somewhere, its site is built.

A ``python`` or ``bash`` block is run, in its page's order, and a block with a title is written to a file of that name,
unless the line before it says why not::

    <!-- not run: needs two Ascend chips -->

``<!-- prints -->`` before a ``text`` block has it compared with what the block before it printed. ``ascend-parallel
bench`` measures fewer calls than it does for a reader.
"""

import pytest
from models import mslite_python

from .pages import PAGES, blocks_of, name_of
from .running import NOT_RUN, PRINTS, PageFolder, fill

#: Languages whose blocks are run.
RUN = ("python", "bash")
#: Languages whose blocks only show something.
SHOWN = ("text", "json", "yaml", "ini")
#: What a block of text must not begin with: a command in it would not be run.
PROMPTS = ("ascend-parallel ", "pip ", "make ", "python ", "$ ")
LEAST_REASON_CHARS = 10


def is_run(block):
    return (block.language in RUN or block.title != "") and not block.comment.startswith(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_says_why_not(page):
    blocks = blocks_of(page)
    for block in blocks:
        assert block.language in RUN + SHOWN, f"{block.where}: {block.language!r} is none of {RUN + SHOWN}"
        if block.comment.startswith(NOT_RUN):
            assert block.language in RUN, f"{block.where}: it would not be run anyway"
            assert len(block.comment.removeprefix(NOT_RUN)) >= LEAST_REASON_CHARS, f"{block.where}: why is it not run?"
        else:
            assert block.comment in ("", PRINTS), f"{block.where}: {block.comment!r} is unknown"
        if block.language == "text":
            lines = block.text.splitlines()
            assert not [line for line in lines if line.startswith(PROMPTS)], f"{block.where}: commands are bash"


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, blocks_of(page)))], ids=name_of)
def test_blocks_run_in_the_order_of_the_page(page, tmp_path, monkeypatch):
    blocks = [block for block in blocks_of(page) if is_run(block) or block.comment == PRINTS]
    if any("venv37" in block.text for block in blocks):
        mslite_python()  # without it, these pages cannot be run
    fill(tmp_path)
    folder = PageFolder(tmp_path, monkeypatch)
    for block in blocks:
        folder.run(block)
