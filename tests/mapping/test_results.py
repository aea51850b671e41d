"""Results of each kind: saved, as lines, or returned; and their assignment to files."""

import json
import os

import models
import numpy as np
import onnx
import PIL.Image
import pytest
from onnx import TensorProto, helper

from ascend_parallel import UsageError, parallel_map

from . import folders

KINDS = ["dict", "list", "number", "none", "array", "arrays", "image", "text", "keys"]
#: Kinds that no file format supports -> a part of the failure reason.
NOT_SAVED = {"bytes": "class 'bytes'", "object": "contains a object", "objects": "Python objects"}
DICT = {"n": 3, "f": 0.5, "a": [0, 1, 2], "nested": [{"b": True}], "1": "é"}


def of_each_kind(tmp_path, kinds, **options):
    folders.fill(tmp_path / "in", [f"{kind}.jpg" for kind in kinds])
    outcomes = parallel_map(folders.pipeline("of_each_kind"), tmp_path / "in", devices="cpu:0", **options)
    return {outcome.file.split(".")[0]: outcome for outcome in outcomes}


def test_saved_to_files(tmp_path):
    outcomes = of_each_kind(tmp_path, [*KINDS, *NOT_SAVED], output_dir=tmp_path / "out", batch_size=3)
    suffixes = {"array": "npz", "arrays": "npz", "image": "png", "text": "txt"}
    # "keys" has a tuple as a key, which JSON does not support.
    good = [kind for kind in KINDS if kind != "keys"]
    for kind in good:
        assert outcomes[kind].outputs == (f"{kind}.jpg.{suffixes.get(kind, 'json')}",), outcomes[kind]
    assert folders.outputs(tmp_path / "out") == sorted(outcomes[kind].outputs[0] for kind in good)
    out = tmp_path / "out"
    assert json.loads((out / "dict.jpg.json").read_text()) == DICT
    assert "é" in (out / "dict.jpg.json").read_text(encoding="utf-8")
    assert json.loads((out / "list.jpg.json").read_text()) == [1, "two", [0, 1]]
    assert json.loads((out / "none.jpg.json").read_text()) is None
    with np.load(out / "array.jpg.npz") as saved:
        assert saved.files == ["output"]
        assert saved["output"].dtype == np.int16
    with np.load(out / "arrays.jpg.npz") as saved:
        assert sorted(saved.files) == ["boxes", "labels"]
    with PIL.Image.open(out / "image.jpg.png") as image:
        assert image.getpixel((1, 1)) == (255, 0, 9)
    assert (out / "text.jpg.txt").read_text(encoding="utf-8") == "grüße"
    for kind, reason in NOT_SAVED.items():
        assert reason in outcomes[kind].error
    assert not outcomes["keys"].ok


def test_as_lines(tmp_path):
    outcomes = of_each_kind(
        tmp_path, ["dict", "array", "text", "image"], output_dir=tmp_path / "out", output_format="jsonl"
    )
    lines = {
        entry["file"]: entry["results"]
        for entry in map(json.loads, (tmp_path / "out/results.jsonl").read_text().splitlines())
    }
    assert lines == {"dict.jpg": [DICT], "array.jpg": [[[0, 1, 2], [3, 4, 5]]], "text.jpg": ["grüße"]}
    assert "contains a Image, which JSON does not support" in outcomes["image"].error


def test_returned(tmp_path):
    outcomes = of_each_kind(tmp_path, [kind for kind in KINDS if kind != "keys"])
    assert outcomes["dict"].result["n"] == 3
    np.testing.assert_array_equal(outcomes["dict"].result["a"], [0, 1, 2])
    np.testing.assert_array_equal(outcomes["array"].result, np.arange(6).reshape(2, 3))
    assert outcomes["array"].result.dtype == np.int16
    outcomes["array"].result[0, 0] = 7  # the array is writable
    np.testing.assert_array_equal(outcomes["arrays"].result["boxes"], np.eye(2))
    assert outcomes["image"].result.shape == (2, 4, 3)
    assert outcomes["number"].result == 2.5
    assert outcomes["none"].results == (None,)
    assert outcomes["text"].outputs == ()


@pytest.mark.parametrize("output_format", ["files", "jsonl", None])
def test_results_that_do_not_pickle_with_pages(tmp_path, output_format):
    folders.fill(tmp_path / "in", ["1.pdf", "3.pdf", "1.jpg", "2.jpg"])
    saved = {} if output_format is None else {"output_dir": tmp_path / "out", "output_format": output_format}
    outcomes = {
        outcome.file: outcome
        for outcome in parallel_map(folders.pipeline("pages"), tmp_path / "in", devices="cpu:0", batch_size=4, **saved)
    }
    assert all(outcome.ok for outcome in outcomes.values()), outcomes
    if output_format == "files":
        assert outcomes["3.pdf"].outputs == ("3.pdf_0.json", "3.pdf_1.json", "3.pdf_2.json")
        assert outcomes["1.pdf"].outputs == ("1.pdf_0.json",)
        assert outcomes["1.jpg"].outputs == ("1.jpg.json",)
        assert outcomes["2.jpg"].outputs == ("2.jpg_0.json", "2.jpg_1.json")
        assert "saved by itself" in (tmp_path / "out/3.pdf_2.json").read_text()
    elif output_format == "jsonl":
        lines = [json.loads(text) for text in (tmp_path / "out/results.jsonl").read_text().splitlines()]
        pages = next(line["results"] for line in lines if line["file"] == "3.pdf")
        assert [page["page_index"] for page in pages] == [0, 1, 2]
    else:
        assert [page["page_index"] for page in outcomes["3.pdf"].result] == [0, 1, 2]
        assert outcomes["1.jpg"].result["page_index"] is None


def test_a_file_without_a_result_is_the_one_that_fails(tmp_path):
    folders.fill(tmp_path / "in", ["1.jpg", "2.jpg", "bad.jpg", "x.jpg"])
    outcomes = parallel_map(folders.pipeline("too_few"), tmp_path / "in", devices="cpu:0", batch_size=4)
    errors = {outcome.file: outcome.error for outcome in outcomes}
    assert errors == {"1.jpg": "", "2.jpg": "", "x.jpg": "", "bad.jpg": "the pipeline returned no result for the file"}


def test_too_many_results_switch_to_one_file_at_a_time_with_a_message(tmp_path, capfd):
    folders.fill(tmp_path / "in", [f"{number}.jpg" for number in range(8)])
    options = {"log": str(tmp_path / "log")}
    outcomes = parallel_map(
        folders.pipeline("two_each"), tmp_path / "in", devices="cpu:0", batch_size=4, options=options
    )
    for outcome in outcomes:
        assert [result["path"] for result in outcome.results] == [outcome.path] * 2
    assert (tmp_path / "log").read_text().split() == ["4"] + ["1"] * 8
    assert "more than 4 results for 4 files" in capfd.readouterr().err


def test_one_result_for_a_whole_batch_is_an_error(tmp_path):
    folders.fill(tmp_path / "in", ["1.jpg"])
    (outcome,) = parallel_map(folders.pipeline("one_thing"), tmp_path / "in", devices="cpu:0")
    assert "returned a dict for a list of 1 files; expected a list" in outcome.error


@pytest.mark.parametrize("ordered", [True, False])
def test_order_of_results(tmp_path, ordered):
    names = [f"{number:03d}.jpg" for number in range(200)]
    folders.fill(tmp_path / "in", names)
    outcomes = parallel_map(folders.pipeline("Streaming"), tmp_path / "in", devices="cpu:0,1", ordered=ordered)
    order = [outcome.file for outcome in outcomes]
    assert sorted(order) == names
    assert order == names or not ordered


def test_a_closed_generator_ends_its_workers(tmp_path, leaves_nothing):
    folders.fill(tmp_path / "in", [f"{number:03d}.jpg" for number in range(200)])
    outcomes = parallel_map(folders.pipeline("describe"), tmp_path / "in", devices="cpu:0,1")
    assert next(outcomes).ok
    outcomes.close()


# ---- model files


@pytest.fixture
def double_onnx(tmp_path):
    """Return models that double x of shape (N, 3) and (2, 3)."""
    for batch in ("N", 2):
        node = helper.make_node("Add", ["x", "x"], ["y"])
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in ("x", "y")]
        graph = helper.make_graph([node], "double", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, tmp_path / f"double{batch}.onnx")
    return tmp_path


@pytest.mark.parametrize("model", ["doubleN.onnx", "double2.onnx"])
@pytest.mark.parametrize("instances", [1, 2])
def test_a_model_file(double_onnx, model, instances):
    names = [f"{number}.jpg" for number in range(21)]
    folders.fill(double_onnx / "in", [*names, "bad.jpg"])
    outcomes = parallel_map(
        str(double_onnx / model),
        double_onnx / "in",
        devices="cpu:0,1",
        instances_per_device=instances,
        batch_size=4,
        preprocess=folders.pipeline("to_row"),
        postprocess=folders.pipeline("to_result"),
    )
    for outcome in outcomes:
        if outcome.file == "bad.jpg":
            assert "cannot identify image file" in outcome.error
        else:
            number = int(outcome.file.split(".")[0])
            assert outcome.result == {"y": 2.0 * (3 * number + 3)}, outcome


def test_a_model_file_without_functions_reads_arrays(double_onnx):
    (double_onnx / "in").mkdir()
    np.save(double_onnx / "in/a.npy", np.ones(3, np.float32))
    np.savez(double_onnx / "in/b.npz", x=np.ones(3, np.float32))
    np.save(double_onnx / "in/c.npy", np.ones(4, np.float32))
    np.savez(double_onnx / "in/d.npz", z=np.ones(3, np.float32))
    folders.fill(double_onnx / "in", ["e.jpg"])
    outcomes = list(parallel_map(str(double_onnx / "doubleN.onnx"), double_onnx / "in", devices="cpu:0", batch_size=2))
    assert [outcome.ok for outcome in outcomes] == [True, True, False, False, False]
    np.testing.assert_array_equal(outcomes[0].result["y"], [2, 2, 2])
    reasons = [
        "the shape of a row without",
        "returned ['z']; expected the model's inputs ['x']",
        "there is no preprocess function",
    ]
    for outcome, reason in zip(outcomes[2:], reasons, strict=True):
        assert reason in outcome.error


@pytest.mark.mslite
@pytest.mark.parametrize("instances", [1, 2])
def test_a_mindir_file(tmp_path, instances):
    if not os.environ.get("MSLITE_PYTHON"):
        pytest.skip("MSLITE_PYTHON is not set")
    (tmp_path / "in").mkdir()
    for number in range(7):
        np.save(tmp_path / f"in/{number}.npy", np.full(8, number, np.float32))
    onnx_file = models.linear(2)
    alone = {
        outcome.file: outcome.result["y"] for outcome in parallel_map(str(onnx_file), tmp_path / "in", devices="cpu:0")
    }
    outcomes = parallel_map(
        *(str(models.convert(onnx_file)), tmp_path / "in"),
        **{"devices": "cpu:0,1", "instances_per_device": instances, "batch_size": 3},
        worker_python=models.mslite_python(),
    )
    for outcome in outcomes:
        np.testing.assert_allclose(outcome.result["y"], alone[outcome.file], atol=1e-5)


@pytest.mark.mslite
def test_a_worker_of_python_3_7(tmp_path):
    python = os.environ.get("MSLITE_PYTHON")
    if not python:
        pytest.skip("MSLITE_PYTHON is not set")
    folders.fill(tmp_path / "in", ["1.jpg", "bad.jpg", "sub/1.jpg"])
    outcomes = parallel_map(
        *(folders.pipeline("describe"), tmp_path / "in"),
        **{"devices": "cpu:0", "recursive": True, "worker_python": python, "output_dir": tmp_path / "out"},
    )
    assert [(outcome.file, outcome.ok) for outcome in outcomes] == [
        ("1.jpg", True),
        ("bad.jpg", False),
        ("sub/1.jpg", True),
    ]


def test_misspelt_arguments_are_errors(tmp_path):
    folders.fill(tmp_path / "in", ["1.jpg"])
    with pytest.raises(TypeError, match="batchsize"):
        parallel_map(folders.pipeline("describe"), tmp_path / "in", batchsize=4)
    with pytest.raises(UsageError, match="preprocess goes with model files only"):
        parallel_map(folders.pipeline("describe"), tmp_path / "in", preprocess="a:b")
