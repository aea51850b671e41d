"""Make README's table of what was tested from the results of runs of the tests.

    python scripts/tested_on.py RESULTS.json    # of a run with TESTED_ON=RESULTS.json; make tested does both
    python scripts/tested_on.py --check         # whether README has the table of the kept results

Results are kept in docs/tested-on.json: a run replaces the rows that it has, so that one on a GPU adds its row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "tested-on.json"
README = ROOT / "README.md"
BEGIN = "<!-- tested on: made by `make tested` -->"
END = "<!-- tested on: end -->"

#: Row -> what it is called in the table.
TITLES = {
    "cpu": "ONNX Runtime on CPUs",
    "mslite": "MindSpore Lite, runtime and Python Converter, on CPUs",
    "paddle": "PaddleX and PaddleOCR (`map`), on CPUs",
    "openvino": "ONNX Runtime's OpenVINO provider on CPUs",
    "cann": "onnxruntime-cann without CANN: what it refuses",
    "torch_npu": "torch-npu without CANN: what it refuses",
    "gpu": "ONNX Runtime's CUDA and TensorRT providers on a GPU",
}
#: What no test has run on.
NOT_YET = (
    "Ascend hardware, CANN, `converter_lite`",
    "OM models (pyACL, ais_bench), ATC; only with strict stand-ins",
    "MindSpore Lite newer than 2.0.0",
)


def main(words: list[str]) -> str | None:
    """Run the command; return an error in one sentence."""
    if words == ["--check"]:
        return None if table() in README.read_text() else "README has not the table of docs/tested-on.json: make tested"
    if len(words) != 1 or words[0].startswith("-"):
        return __doc__
    merge(json.loads(Path(words[0]).read_text()))
    text = README.read_text()
    start, end = text.index(BEGIN), text.index(END) + len(END)
    README.write_text(text[:start] + table() + text[end:])
    print(table())
    return None


def merge(results: dict[str, dict[str, object]]) -> None:
    """Put the rows of a run into the kept results; a row with failures is refused."""
    for row, found in results.items():
        if found.get("failed"):
            raise SystemExit(f"{found['failed']} tests of {TITLES[row]} failed: nothing was changed")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept.update(results)
    KEPT.write_text(json.dumps({row: kept[row] for row in TITLES if row in kept}, indent=2) + "\n")


def table() -> str:
    """Return the table of the kept results, with the marks around it."""
    kept = json.loads(KEPT.read_text())
    lines = [BEGIN, "", "| | version | tests |", "|---|---|---|"]
    lines += [_line(title, kept.get(row)) for row, title in TITLES.items()]
    lines += [_line(title, None) for title in NOT_YET]
    return "\n".join([*lines, "", END])


def _line(title: str, found: dict[str, object] | None) -> str:
    if found is None:
        return f"| {title} | | **not yet** |"
    versions = found["versions"]
    assert isinstance(versions, dict)
    return f"| {title} | {', '.join(versions.values())} | {found['passed']:,} passed |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
