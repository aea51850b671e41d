"""Tables on terminals of different widths: no line is wider, and no figure is cut or lost."""

import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from ascend_parallel.bench.layout import fit

TITLES = ["devices", "batch", "in\nflight", "rows/s", "p50\nms", "p90\nms", "rows/s\na device"]
LINES = [
    ["1", "2", "1", "466.7", "4.232", "4.297", "466.7"],
    ["16", "2", "1", "12,345", "2.316", "12.62", "12,345-13,456"],
]


def rendered(width, lines=LINES, names=3):
    """Return what is the same in all rows, and the text of the tables."""
    same, tables = fit(width, TITLES, lines, names)
    file = io.StringIO()
    Console(file=file, width=width).print(*tables, sep="\n")
    return same, file.getvalue()


@pytest.mark.parametrize("width", [200, 59, 58, 44, 43, 40, 39, 30, 25])
def test_all_figures_are_there_whole_and_no_line_is_too_wide(width):
    same, text = rendered(width)
    assert max(map(len, text.splitlines())) <= width
    for line in LINES:
        for cell in line[3:]:
            assert len(re.findall(rf"(?<![\d.,-]){re.escape(cell)}(?![\d.,-])", text)) == line[3:].count(cell)
    assert same == ("" if width >= 59 else "batch 2, in flight 1")


def test_one_table_as_long_as_it_fits():
    assert [len(fit(width, TITLES, LINES, 3)[1]) for width in (200, 59, 44, 40)] == [1, 1, 1, 1]
    assert len(fit(39, TITLES, LINES, 3)[1]) == 2


def test_settings_that_tell_rows_apart_stay_in_each_table():
    lines = [[*line[:2], flight, *line[3:]] for line in LINES for flight in ("1", "2")]
    same, text = rendered(40, lines)
    assert same == "batch 2"
    rows = [line.split()[:2] for line in text.splitlines() if line.split()[:1] in (["1"], ["16"])]
    assert rows == 2 * [["1", "1"], ["1", "2"], ["16", "1"], ["16", "2"]]


def test_a_single_row_is_named_by_its_devices():
    same, text = rendered(40, LINES[:1])
    assert same == "batch 2, in flight 1"
    assert text.split()[0] != "devices" and "devices" in text


def run_on_terminal(columns, *words, cwd):
    """Run the command on a terminal; return what it shows there."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ascend_parallel", "bench", *words],
        cwd=cwd,
        stdout=far,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "dumb"},
    )
    os.close(far)
    shown = b""
    try:
        while data := os.read(near, 4096):
            shown += data
    except OSError:  # the terminal is hung up
        pass
    os.close(near)
    assert process.wait(60) == 0
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("in_flight", ["1", "1,2"])
def test_the_command_fits_a_terminal(tmp_path, columns, in_flight):
    words = ["sim", "--engine", "simulated", "--devices", "simulated:0,1", "--input-shape", "x:?,3", "--breakdown"]
    words += ["--requests", "10", "--in-flight", in_flight, "--json", "out.json"]
    lines = run_on_terminal(columns, *words, cwd=tmp_path).splitlines()
    assert max(map(len, lines)) <= columns
    figures = [word for line in lines if re.match(r" +\d", line) for word in line.split()]
    for row in json.loads((tmp_path / "out.json").read_text())["rows"]:
        for share in (row["efficiency"], row["spread"], *row["breakdown"]["call"].values()):
            assert f"{share:.1%}" in figures
        assert f"{row['host_overhead_us']:.0f}" in figures
