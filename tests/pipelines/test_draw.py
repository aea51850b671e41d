"""Drawings of pipelines: graphviz's text, and pictures where graphviz is installed."""

import re
import shutil
import subprocess
import sys

import models
import pytest
import yaml

from ascend_parallel import DiskError, UsageError
from ascend_parallel.pipelines.config import PipelineConfig
from ascend_parallel.pipelines.draw import draw, to_dot

from .test_random_graphs import OPS_FILE

OPS = [
    {"name": "detect", "path": "detect.onnx", "devices": "cpu:0,1"},
    {"name": "a-cut", "inputs": ["request", "detect"], "python": "ops.py:Cut", "concurrency": 3},
    {
        "name": "read",
        "inputs": {"x": "a-cut.x", "image": "request.image", "y": "a-cut.y"},
        "python": 'my "ops".py:Read',
        "path": "models/read.onnx",
        "devices": ["cpu:0", "cpu:1"],
        "concurrency": 2,
    },
]
PIPELINE = PipelineConfig.model_validate(
    {"name": "ocr", "ops": OPS, "outputs": {"texts": "read.texts", "boxes": "detect.boxes"}}
)

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")

_NAME = r'"((?:[^"\\]|\\.)*)"'


def read_dot(text):
    """Return the nodes with their labels, and the edges with theirs, of what ``to_dot`` writes; each line is known."""
    nodes, edges = {}, {}
    depth = 0
    for line in text.splitlines():
        line = line.strip()
        if edge := re.fullmatch(rf"{_NAME} -> {_NAME} \[label={_NAME}\];", line):
            edges[edge[1], edge[2]] = edge[3]
        elif node := re.fullmatch(rf'{_NAME} \[label={_NAME}, (?:fillcolor="#\w{{6}}"|shape=plain, style="")\];', line):
            nodes[node[1]] = node[2].replace('\\"', '"').split("\\n")
        elif line.endswith("{"):
            depth += 1
        elif line == "}":
            depth -= 1
        else:
            assert re.fullmatch(rf"rankdir=LR; compound=true;|(graph|node|edge) \[.*\];|label={_NAME};", line), line
    assert depth == 0
    assert set().union(*edges) <= set(nodes)
    return nodes, edges


def test_the_text_has_all_ops_and_what_each_reads():
    nodes, edges = read_dot(to_dot([PIPELINE]))
    assert nodes == {
        "p0/request": ["request"],
        "p0/": ["answer"],
        "p0/detect": ["detect", "detect.onnx", "on cpu:0,1"],
        "p0/a-cut": ["a-cut", "ops.py:Cut", "3 processes"],
        "p0/read": ["read", 'my "ops".py:Read', "read.onnx", "2 processes on cpu:0, cpu:1"],
    }
    assert edges == {
        ("p0/request", "p0/detect"): "",
        ("p0/request", "p0/a-cut"): "",
        ("p0/detect", "p0/a-cut"): "",
        ("p0/a-cut", "p0/read"): "x, y",
        ("p0/request", "p0/read"): "image",
        ("p0/read", "p0/"): "texts",
        ("p0/detect", "p0/"): "boxes",
    }


def test_several_pipelines_have_nodes_of_their_own():
    nodes, edges = read_dot(to_dot([PIPELINE, PIPELINE.model_copy(update={"name": "second"})]))
    assert len(nodes) == 10
    assert all(one.partition("/")[0] == other.partition("/")[0] for one, other in edges)


def test_without_graphviz_the_text_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert draw([PIPELINE], tmp_path / "ocr.svg") == tmp_path / "ocr.dot"
    read_dot((tmp_path / "ocr.dot").read_text())
    assert draw([PIPELINE], tmp_path / "other.gv") == tmp_path / "other.gv"


@needs_graphviz
@pytest.mark.parametrize(("suffix", "begin"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_pictures_by_graphviz(tmp_path, suffix, begin):
    path = tmp_path / f"ocr{suffix}"
    assert draw([PIPELINE], path) == path
    assert path.read_bytes().startswith(begin)
    if suffix == ".svg":
        text = path.read_text()
        assert all(word in text for word in ("a&#45;cut", "my &quot;ops&quot;.py:Read", "texts", "ocr 1"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ocr.jpg", "ocr.jpg does not end in .svg or .png or .pdf or .dot or .gv"),
        ("no/ocr.svg", "there is no folder .*no; make"),
    ],
)
def test_where_it_cannot_be_written(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        draw([PIPELINE], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_graphviz_that_hangs_is_ended(tmp_path, monkeypatch):
    hanging = tmp_path / "dot"
    hanging.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("ascend_parallel.pipelines.draw._DRAW_S", 0.5)
    with pytest.raises(DiskError, match=r"graphviz did not draw .*ocr.svg in 0.5 s; a .dot file needs no graphviz"):
        draw([PIPELINE], tmp_path / "ocr.svg")


def test_nothing_to_draw():
    with pytest.raises(UsageError, match="the configuration has no pipelines to draw"):
        to_dot([])


# ---- the command


def serve(folder, *arguments):
    """Run ``ascend-parallel serve`` to its end."""
    command = [sys.executable, "-m", "ascend_parallel", "serve", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a configuration that is right."""
    made = tmp_path_factory.mktemp("draw")
    ops = [
        {"name": "b", "path": str(models.two()), "devices": "cpu:0,1", "inputs": {"a": "a.a_q", "b": "a.a_q"}},
        {"name": "a", "python": f"{OPS_FILE}:Alone", "options": {"name": "a"}, "devices": "cpu:0", "concurrency": 2},
    ]
    (made / "config.yml").write_text(yaml.safe_dump({"pipelines": [{"name": "p", "ops": ops}]}))
    (made / "model.yml").write_text(yaml.safe_dump({"models": [{"path": str(models.two())}]}))
    return made


def test_the_command_draws_and_starts_nothing(folder):
    done = serve(folder, "config.yml", "--draw", "p.dot")
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote p.dot\n", "")
    nodes, _ = read_dot((folder / "p.dot").read_text())
    assert nodes["p0/b"] == ["b", "two_batch.onnx", "on cpu:0,1"]


def test_the_command_checks(folder):
    done = serve(folder, "config.yml", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "p 1: 2 ops\n"
        f"  a: {OPS_FILE}:Alone in 2 processes on cpu:0, batches of at most 16 requests\n"
        f"  b: {models.two()} on cpu:0, cpu:1, batches of at most 16 rows\n"
    )


def test_what_cannot_be_drawn_is_told(folder):
    done = serve(folder, "model.yml", "--draw", "p.dot")
    assert done.returncode == 2
    assert done.stderr == "ascend-parallel: error: the configuration has no pipelines to draw\n"
    assert serve(folder, "config.yml", "--draw", "p.txt").returncode == 2
