"""Runs the blocks of a page in a folder of its own, as a reader would type them one after the other."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from models import sd_unet
from onnx import TensorProto, helper

from .pages import ROOT

TIMEOUT_S = 60
#: A comment before a block that is not run; its reason must say something.
NOT_RUN = "not run: "
#: A comment before a block that is what the block before it prints, "..." standing for anything.
PRINTS = "prints"
#: Measured calls of a setting here, in place of five seconds.
BENCH_CALLS = 10


class PageFolder:
    """A folder with what pages take for granted, and the state that a page's blocks leave behind.

    Attributes:
        path: the folder.
        printed: what the last block printed.
    """

    def __init__(self, path, monkeypatch):
        self.path = path
        self.printed = ""
        self._names = {"__name__": "__main__"}
        monkeypatch.chdir(path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(path / ".cache"))
        places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        monkeypatch.setenv("PATH", f"{write_programs(path / '.bin')}{os.pathsep}{os.environ['PATH']}")

    def run(self, block):
        """Run a block; raises where it fails, or prints something else than the page says."""
        if block.comment == PRINTS:
            assert matches(block.text, self.printed), f"{block.where}: printed was:\n{self.printed}"
        elif block.title:
            (self.path / block.title).write_text(block.text)
        elif block.language == "python":
            self._run_python(block)
        else:
            self._run_shell(block)

    def _run_python(self, block):
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                exec(compile(block.text, block.where, "exec"), self._names)
        except Exception as error:
            raise AssertionError(f"{block.where}: {type(error).__name__}: {error}\n{out.getvalue()}") from error
        self.printed = out.getvalue()

    def _run_shell(self, block):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"{block.where}: exit code {done.returncode}\n{done.stdout}"


def write_programs(folder):
    """Write the programs that shell blocks call, over this Python and this package; return their folder."""
    folder.mkdir()
    programs = {
        "python": f'exec "{sys.executable}" "$@"',
        "ascend-parallel": f'[ "$1" = bench ] && set -- "$@" --requests {BENCH_CALLS}\n'
        f'exec "{sys.executable}" -m ascend_parallel "$@"',
    }
    for name, text in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return folder


def matches(expected, printed):
    """Whether what was printed is what a page says, blanks at the ends of lines left out."""
    wanted, found = ("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (expected, printed))
    return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), found, re.DOTALL) is not None


# ---- what pages take for granted


def fill(folder):
    """Put into a folder what pages speak of: a model, its inputs, a model of fixed batch, a folder of files."""
    folder = Path(folder)
    save_model(folder / "model.onnx", "GlobalAveragePool", {"x": ["batch", 3, 224, 224]}, {"y": ["batch", 3, 1, 1]})
    for batch, name in ((1, "unet_bs1.onnx"), (2, "unet.onnx")):
        shutil.copy(sd_unet(batch), folder / name)
    np.savez(folder / "in.npz", x=np.ones((8, 3, 224, 224), np.float32))
    (folder / "scans").mkdir()
    for number in range(4):
        (folder / "scans" / f"page{number}.jpg").write_bytes(b"a picture" * (number + 1))
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    mslite = os.environ.get("MSLITE_PYTHON")
    if mslite:
        (folder / "venv37").symlink_to(Path(mslite).parents[1])


def save_model(path, operator, inputs, outputs):
    """Write an ONNX model of one operator on float32."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()]
        for ends in (inputs, outputs)
    ]
    node = helper.make_node(operator, list(inputs), list(outputs))
    graph = helper.make_graph([node], path.stem, *infos)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
