"""The OM engine, with strict stand-ins for pyACL and ais_bench: neither can be installed without CANN."""

import json
import os
import sys
from pathlib import Path

import models
import numpy as np
import om_models
import pytest

from ascend_parallel import EngineError, ParallelPredictUtils, UsageError
from ascend_parallel.engine_list import list_engines
from ascend_parallel.worker.engines.acl_codes import describe_code

ACL = Path(__file__).parent / "standins"
AIS_BENCH = Path(__file__).parent / "standins_ais"
GEARS = {"gears": {"batch": [1, 2, 4, 8]}}


class StandIn:
    """The stand-in for pyACL: its settings, and what each process that used it has to report."""

    def __init__(self, folder, monkeypatch):
        self._folder = folder
        self._patch = monkeypatch
        folder.mkdir()
        monkeypatch.syspath_prepend(str(ACL))
        self.set()

    def set(self, **settings):
        self._patch.setenv("ACL_STANDIN", json.dumps({"report": str(self._folder), **settings}))

    def reports(self, *, processes=None):
        """Return the reports of the processes that have ended: without violations, and with nothing left."""
        found = [json.loads(file.read_text()) for file in self._folder.glob("*.json")]
        for report in found:
            assert report["violations"] == []
            assert not any(report["leaks"].values()), report
            assert (report["inits"], report["finalized"]) == (1, 1)
        assert processes in (None, len(found))
        return found


@pytest.fixture
def acl(tmp_path, monkeypatch):
    return StandIn(tmp_path / "reports", monkeypatch)


@pytest.fixture
def acl_here(acl, monkeypatch):
    """Return the stand-in as a module of this process, for threads; at the end nothing must be left."""
    monkeypatch.delitem(sys.modules, "acl", raising=False)
    acl.set()
    import acl as module

    module.SETTINGS["report"] = ""  # this process does not end here
    yield module
    del sys.modules["acl"]
    assert module.violations == [] and not any(module.leaks().values()), module.report()


def numbers(rows, seed=0):
    return np.random.default_rng(seed + rows).standard_normal((rows, 8)).astype(np.float32)


def check_linear(runner, rows):
    x = numbers(rows)
    outputs = runner.predict({"x": x})
    assert list(outputs) == ["y"]
    np.testing.assert_allclose(outputs["y"], om_models.linear_reference(x), rtol=1e-4, atol=1e-5)


# ---- results


@pytest.mark.parametrize("python", ["this one", pytest.param("3.7", marks=pytest.mark.mslite)])
@pytest.mark.parametrize("instances", [1, 3])
def test_a_static_model_on_two_devices(acl, tmp_path, instances, python, leaves_nothing):
    """All rows, padded to the model's batch; the instances of a device share the weights, and compute at once."""
    options = {"worker_python": models.mslite_python()} if python == "3.7" else {}
    model = om_models.linear(tmp_path / "m.om", 4, ms=20)
    with ParallelPredictUtils(model, devices="ascend:0,1", instances=instances, **options) as runner:
        assert [tuple(spec) for spec in runner.inputs] == [("x", "float32", (4, 8))]
        assert [tuple(spec) for spec in runner.outputs] == [("y", "float32", (4, 5))]
        for rows in (1, 4, 31):
            check_linear(runner, rows)
        workers = runner.stats()["workers"]
    assert sorted(workers) == ["ascend:0", "ascend:1"]
    reports = acl.reports(processes=2)
    assert {report["pid"] for report in reports} == {worker["pid"] for worker in workers.values()}
    for report in reports:
        assert (report["loads"], report["sets_of_weights"]) == (instances, 1)
        assert report["most_at_once"] == instances
        assert report["executions"] > 1


@pytest.mark.parametrize("python", ["this one", pytest.param("3.7", marks=pytest.mark.mslite)])
def test_a_batch_of_any_size_with_gears(acl, tmp_path, python):
    options = {"worker_python": models.mslite_python()} if python == "3.7" else {}
    with ParallelPredictUtils(
        om_models.linear(tmp_path / "m.om", -1, **GEARS), devices="ascend:0,1", instances=2, **options
    ) as runner:
        assert runner.inputs[0].shape == (None, 8)
        assert runner.outputs[0].shape == (None, 5)
        for rows in (1, 2, 3, 5, 6, 7, 40):
            check_linear(runner, rows)
        futures = [runner.submit({"x": numbers(rows)}) for rows in range(1, 30)]
        for rows, future in enumerate(futures, 1):
            y = future.result(30)["y"]
            np.testing.assert_allclose(y, om_models.linear_reference(numbers(rows)), rtol=1e-4, atol=1e-5)
    acl.reports(processes=2)


def test_gears_of_image_sizes(acl, tmp_path):
    with ParallelPredictUtils(om_models.images(tmp_path / "m.om"), devices="ascend:0,1") as runner:
        assert runner.inputs[0].shape == (2, 3, None, None)
        for size in ((4, 6), (2, 2), (8, 8)):
            image = np.random.default_rng(1).integers(0, 255, (5, 3, *size)).astype(np.uint8)
            outputs = runner.predict({"image": image})
            assert list(outputs) == ["negative", "mean"]
            np.testing.assert_array_equal(outputs["negative"], 255 - image)
            np.testing.assert_allclose(outputs["mean"], image.astype(np.float32).mean((2, 3)), rtol=1e-5)
        with pytest.raises(EngineError, match=r"\(2, 3, 5, 5\) fit none of the model's gears: \(2, 3, 4, 6\); "):
            runner.predict({"image": np.zeros((2, 3, 5, 5), np.uint8)})
    acl.reports()


def test_gears_of_all_sizes(acl, tmp_path):
    with ParallelPredictUtils(om_models.sequences(tmp_path / "m.om"), devices="ascend:0", instances=2) as runner:
        for rows in (1, 2, 4, 9):
            for length in (3, 6):
                ids = np.random.default_rng(rows).integers(0, 50, (rows, length))
                mask = (ids % 2).astype(np.float16)
                total = runner.predict({"ids": ids, "mask": mask})["total"]
                np.testing.assert_allclose(total, (ids * mask).sum(1).astype(np.float32))
    acl.reports()


def test_an_input_without_rows_and_a_name_of_more_than_127_characters(acl, tmp_path):
    long = "n" * 140
    model = om_models.write(
        tmp_path / "m.om",
        {long: ("float32", [-1, 2]), "scale": ("float32", [1])},
        {"a:0:y": ("float32", f"{long} * scale"), "b:0:y": ("float32", f"-{long}")},
        gears={"batch": [2, 4]},
    )
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    with ParallelPredictUtils(model, devices="ascend:0,1") as runner:
        assert [spec.name for spec in runner.inputs] == [long, "scale"]
        outputs = runner.predict({long: x, "scale": np.array([3], np.float32)})
    np.testing.assert_array_equal(outputs["a:0:y"], x * 3)  # their short names would be the same
    np.testing.assert_array_equal(outputs["b:0:y"], -x)
    acl.reports()


def test_several_models_of_one_runner(acl, tmp_path):
    paths = {
        "fixed": om_models.linear(tmp_path / "a.om", 2),
        "open": om_models.linear(tmp_path / "b.om", -1, **GEARS),
    }
    with ParallelPredictUtils(paths, devices="ascend:0,1", instances=2) as runner:
        for name in ("fixed", "open", "fixed"):
            x = numbers(5)
            y = runner.predict({"x": x}, model=name)["y"]
            np.testing.assert_allclose(y, om_models.linear_reference(x), rtol=1e-4, atol=1e-5)
    acl.reports(processes=2)


@pytest.mark.parametrize("instances", [1, 2])
def test_threads_of_this_process(acl_here, tmp_path, instances, leaves_nothing):
    """Two runners, one after the other: ACL is initialised once, and all memory is freed in between."""
    model = om_models.linear(tmp_path / "m.om", -1, **GEARS)
    for _ in range(2):
        with ParallelPredictUtils(
            model, devices="ascend:0,1", workers="threads", instances=instances, chunk_size=8
        ) as runner:
            for rows in (1, 3, 40):
                check_linear(runner, rows)
        assert not any(acl_here.leaks().values()), acl_here.leaks()
    assert acl_here.state["inits"] == 1
    assert (acl_here.state["loads"], acl_here.state["sets_of_weights"]) == (4 * instances, 4)
    assert acl_here.device_users == {0: 0, 1: 0}


def test_a_program_that_uses_acl_itself(acl_here, tmp_path):
    """ACL is the program's then: it stays initialised, and its repeated initialisation is no error."""
    assert acl_here.init() == 0
    with ParallelPredictUtils(om_models.linear(tmp_path / "m.om", 2), devices="ascend:0", workers="threads") as runner:
        check_linear(runner, 3)
    assert acl_here.violations == ["100002: acl.init for the second time"]
    acl_here.violations.clear()
    assert acl_here.state["finalized"] == 0 and acl_here.finalize() == 0


def test_a_device_that_fails_to_build_leaves_no_memory_of_the_others(acl_here, tmp_path):
    """In threads, the program goes on: what was built on ascend:0 has to be freed."""
    acl_here.SETTINGS["faults"] = {"rt.set_device": [[507033, 2]]}
    with pytest.raises(EngineError, match="Ascend error 507033"):
        ParallelPredictUtils(
            om_models.linear(tmp_path / "m.om", 2), devices="ascend:0,1", workers="threads"
        ).build_model()
    assert not any(acl_here.leaks().values()), acl_here.leaks()


def test_outputs_are_copied_to_their_place_only(acl, tmp_path):
    """From the device, real rows travel, not padding; and they need no other copy than that into the result."""
    with ParallelPredictUtils(om_models.linear(tmp_path / "m.om", -1, gears={"batch": [64]}), devices="ascend:0") as r:
        for rows in (33, 33):
            check_linear(r, rows)
    (report,) = acl.reports()
    row_bytes = 4 * (64 * 8), 4 * 5
    assert report["copied_bytes"] == 3 * row_bytes[0] + (1 + 33 + 33) * row_bytes[1]


# ---- faults: one sentence each, with CANN's code and what it usually means

BUILD_FAULTS = {
    # what is wrong -> (settings of the stand-in, what is changed in the model, code, the function's name)
    "the model vanishes": (
        {"faults": {"mdl.load_from_file": [[145002, 0]]}},
        {},
        145002,
        "acl.mdl.load_from_file(m.om)",
    ),
    "another chip": ({}, {"soc": "Ascend910B3"}, 507008, "acl.mdl.load_from_file(m.om)"),
    "device busy": ({"faults": {"rt.set_device": [[507033, 0]]}}, {}, 507033, "acl.rt.set_device(0)"),
    "no such device": ({"devices": 0}, {}, 107001, "acl.rt.set_device(0)"),
    "no memory for the weights": ({"memory_bytes": 100}, {}, 245000, "acl.mdl.load_from_file(m.om)"),
    "no memory for the inputs": ({"memory_bytes": 200}, {}, 207001, "acl.rt.malloc of 128 bytes"),
    "no permission": ({"faults": {"rt.create_context": [[207006, 0]]}}, {}, 207006, "acl.rt.create_context"),
    "ACL does not start": ({"faults": {"init": [[500004, 0]]}}, {}, 500004, "acl.init"),
    "an unknown code": ({"faults": {"mdl.load_from_file": [[599999, 0]]}}, {}, 599999, "acl.mdl.load_from_file(m.om)"),
}


@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize(("settings", "changes", "code", "what"), BUILD_FAULTS.values(), ids=BUILD_FAULTS)
def test_a_build_that_fails(acl, acl_here, tmp_path, settings, changes, code, what, workers, leaves_nothing):
    """Nothing is left: ``acl_here`` sees to it for threads. A worker that failed to build is terminated."""
    acl.set(**settings)
    acl_here.SETTINGS.update(settings)
    model = om_models.linear(tmp_path / "m.om", 4, **changes)
    with pytest.raises(EngineError) as raised:
        ParallelPredictUtils(model, devices="ascend:0", workers=workers).build_model()
    text = str(raised.value)
    assert "ascend:0 failed while building" in text and "\n" not in text
    assert f"{what} failed: {describe_code(code)}" in text and "CANN says: " in text
    assert text.count(describe_code(code)) == 1


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_a_second_instance_that_does_not_fit(acl, acl_here, tmp_path, workers):
    """An instance that cannot be made is a build that fails, not a worker that dies."""
    acl.set(memory_bytes=2000)
    acl_here.SETTINGS.update(memory_bytes=2000)
    model = om_models.linear(tmp_path / "m.om", 4)
    with pytest.raises(EngineError, match="Ascend error 207001: the device's memory is used up"):
        ParallelPredictUtils(model, devices="ascend:0", instances=2, workers=workers).build_model()
    assert acl_here.state["executions"] == (workers == "threads")  # the warm-up of the first


RUN_FAULTS = {
    "an operator fails": ({"mdl.execute_async": [[500001, 3]]}, 500001, "acl.mdl.execute_async(m.om)", 0),
    "a wrong batch": ({"mdl.set_dynamic_batch_size": [[145013, 3]]}, 145013, "setting the batch 2", 0),
    "a copy fails": ({"rt.memcpy": [[507899, 5]]}, 507899, "acl.rt.memcpy to the device", 1),
    "an AI core exception": (
        {"rt.synchronize_stream": [[507015, 3]]},
        507015,
        "running m.om (acl.rt.synchronize_stream)",
        1,
    ),
}


@pytest.mark.parametrize(("faults", "code", "what", "restarts"), RUN_FAULTS.values(), ids=RUN_FAULTS)
def test_a_predict_that_fails_and_the_next_ones(acl, tmp_path, faults, code, what, restarts, leaves_nothing):
    """The second predict fails; after an error of the device itself, the worker is replaced before the third."""
    acl.set(faults=faults)
    with ParallelPredictUtils(om_models.linear(tmp_path / "m.om", -1, **GEARS), devices="ascend:0") as runner:
        check_linear(runner, 2)
        with pytest.raises(EngineError) as raised:
            runner.predict({"x": numbers(2)})
        text = str(raised.value)
        assert "ascend:0 failed while predicting" in text and "\n" not in text
        assert f"{what} failed: {describe_code(code)} (CANN says: {code}: a fault of the test's" in text
        check_linear(runner, 2)
        assert runner.stats()["workers"]["ascend:0"]["restarts"] == restarts
    acl.reports(processes=1)  # the worker that was replaced left at once, without a report


def test_a_model_that_is_gone_is_told_before_anything_starts(acl, tmp_path):
    with pytest.raises(UsageError, match=r"there is no model file .*gone\.om"):
        ParallelPredictUtils(tmp_path / "gone.om", devices="ascend:0")
    assert acl.reports() == []


UNFIT = {
    "a range of shapes": ({"x": ("float32", [-1, 8])}, {}, "the model takes a range of shapes"),
    "dynamic AIPP": (
        {"x": ("uint8", [1, 8]), "ascend_dynamic_aipp_data": ("uint8", [64])},
        {},
        "the model has dynamic AIPP",
    ),
}


@pytest.mark.parametrize(("inputs", "rest", "message"), UNFIT.values(), ids=UNFIT)
def test_models_that_this_engine_cannot_run(acl, tmp_path, inputs, rest, message):
    model = om_models.write(tmp_path / "m.om", inputs, {"y": ("float32", "x * 1")}, **rest)
    with pytest.raises(EngineError, match=message):
        ParallelPredictUtils(model, devices="ascend:0").build_model()


def test_an_element_type_that_numpy_does_not_have(acl, tmp_path):
    model = om_models.linear(tmp_path / "m.om", 4)
    content = json.loads(model.read_bytes()[4:])
    content["outputs"][0]["acl_dtype"] = 27  # bfloat16
    model.write_bytes(b"IMOD" + json.dumps(content).encode())
    with pytest.raises(EngineError, match="has the element type 27 of ACL, which numpy does not have"):
        ParallelPredictUtils(model, devices="ascend:0").build_model()


KINDS = {
    "an ONNX file": (b"\x08\x07\x12\x07pytorch", "by its first bytes, an ONNX file: convert it"),
    "a MINDIR file": (b"\n\x05MindSpore", "by its first bytes, a MINDIR file: run it with the mslite engine"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "left by Git LFS"),
}


@pytest.mark.parametrize(("content", "message"), KINDS.values(), ids=KINDS)
def test_files_of_another_kind(tmp_path, content, message):
    (tmp_path / "m.om").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        ParallelPredictUtils(tmp_path / "m.om", devices="ascend:0")


def test_a_damaged_file(acl, tmp_path):
    (tmp_path / "m.om").write_bytes(b"IMOD{")
    with pytest.raises(EngineError, match="Ascend error 545001: the model file is damaged"):
        ParallelPredictUtils(tmp_path / "m.om", devices="ascend:0").build_model()


def test_only_on_ascend_devices(tmp_path):
    with pytest.raises(UsageError, match="the engine om does not run on cpu:0"):
        ParallelPredictUtils(om_models.linear(tmp_path / "m.om", 4), devices="cpu:0")


def test_without_a_runtime(tmp_path):
    model = om_models.linear(tmp_path / "m.om", 4)
    with pytest.raises(EngineError, match=r"neither acl \(pyACL\) nor ais_bench can be imported by .*set_env.sh"):
        ParallelPredictUtils(model, devices="ascend:0").build_model()
    with pytest.raises(UsageError, match="which has no acl or ais_bench; install it here"):
        ParallelPredictUtils(model, devices="ascend:0", workers="threads")


def test_the_runtime_is_described(acl, monkeypatch):
    (info,) = list_engines(["om"])
    assert (info.here.found, info.here.error) == ("acl (pyACL)", "")
    assert info.to_json()["instances"] == "threads"
    assert list(acl.reports()) == []  # it was imported, no more
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(ACL)])
    monkeypatch.setenv("ACL_STANDIN", "{}")
    (info,) = list_engines(["om"])
    assert info.here.state == "missing"


# ---- ais_bench


@pytest.fixture
def ais_bench(monkeypatch):
    monkeypatch.syspath_prepend(str(AIS_BENCH))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ais_bench"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_ais_bench_where_only_that_is_installed(ais_bench, tmp_path, workers):
    with ParallelPredictUtils(
        om_models.linear(tmp_path / "m.om", 4), devices="ascend:0,1", instances=2, workers=workers
    ) as runner:
        for rows in (1, 4, 30):
            x = numbers(rows)
            y = runner.predict({"x": x})["MatMul_0:0:y"]
            np.testing.assert_allclose(y, om_models.linear_reference(x), rtol=1e-4, atol=1e-5)
    if workers == "threads":
        from ais_bench.infer import interface

        assert interface.violations == [] and interface.alive == []


def test_ais_bench_takes_the_batches_of_the_model_only(ais_bench, tmp_path):
    with ParallelPredictUtils(
        om_models.linear(tmp_path / "m.om", -1, **GEARS), devices="ascend:0,1", chunk_size=4
    ) as runner:
        x = numbers(8)
        y = runner.predict({"x": x})["MatMul_0:0:y"]
        np.testing.assert_allclose(y, om_models.linear_reference(x), rtol=1e-4, atol=1e-5)
        with pytest.raises(EngineError) as raised:
            runner.predict({"x": numbers(3)})
    assert describe_code(145013) in str(raised.value)


def test_tests_leave_no_report_of_the_environment():
    assert "ACL_STANDIN" not in os.environ
