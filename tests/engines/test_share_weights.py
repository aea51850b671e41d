"""One set of weights for several workers: results, memory, and faults of the cache."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import models
import numpy as np
import onnx
import pytest
from faults import procs

from ascend_parallel import EngineError, ParallelPredictUtils, UsageError
from ascend_parallel.worker.engines import ENGINES, weights_cache
from ascend_parallel.worker.engines.prepared import fetch_prepared
from ascend_parallel.worker.engines.weights_cache import MODEL_NAME, WeightsCache

TINY = Path(__file__).parents[2] / "examples" / "sd21" / "tiny"
HEAVY = {"products": models.heavy_products, "convolutions": models.heavy_convolutions}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the cache's folder; it does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ascend-parallel" / "weights"


def make(path, devices="cpu:0,1", **options):
    return ParallelPredictUtils(
        path, devices=devices, **{"share_weights": True, "engine_options": {"threads": 1}, **options}
    )


def entries(cache):
    return sorted(cache.glob("entries/*"))


def feeds_of(runner, rows=4):
    """Return inputs with this number of rows for any model."""
    random = np.random.default_rng(5)
    feeds = {}
    for spec in runner.inputs:
        shape = [dim if isinstance(dim, int) else 2 for dim in spec.shape]
        shape[0] = shape[0] if spec.name == "timestep" and spec.shape[0] == 1 else rows
        numbers = random.integers(0, 5, shape) if "int" in spec.dtype else random.standard_normal(shape)
        feeds[spec.name] = numbers.astype(spec.dtype)
    return feeds


def predict_bytes(path, **options):
    """Return the bytes of a runner's outputs."""
    with make(path, **options) as runner:
        return {name: array.tobytes() for name, array in runner.predict(feeds_of(runner)).items()}


def with_external_weights(path, folder):
    """Return a copy of a model with its weights in a separate file."""
    copy = folder / "apart.onnx"
    onnx.save(onnx.load(path), copy, save_as_external_data=True, location="apart.bin", size_threshold=0)
    return copy


# ---- results

REAL = {f"tiny {part}": TINY / part / "model.onnx" for part in ("unet", "vae_decoder", "text_encoder")}


@pytest.mark.parametrize("model", [*HEAVY, *REAL, "guided", "apart"])
def test_results_are_equal_bit_by_bit(cache, tmp_path, model):
    if model in REAL:
        path = REAL[model]
    elif model == "apart":
        (tmp_path / "model").mkdir()
        path = with_external_weights(models.heavy_convolutions(), tmp_path / "model")
    else:
        path = {**HEAVY, "guided": lambda: models.unet(1)}[model]()
    before = sorted(path.parent.iterdir())
    plain = predict_bytes(path, share_weights=False)
    assert not cache.exists()
    assert predict_bytes(path) == plain, "prepared now"
    assert predict_bytes(path, instances=2) == plain, "prepared before"
    assert len(entries(cache)) == 1
    assert sorted(path.parent.iterdir()) == before, "nothing is written next to the model"


def test_each_configuration_has_its_own_entry(cache):
    """The prepared model may depend on it."""
    predict_bytes(models.linear())
    predict_bytes(models.linear(), engine_options={"session_config": {"session.disable_prepacking": "1"}})
    assert len(entries(cache)) == 2


# ---- memory


def cost_bytes(path, **options):
    """Return the memory of all workers of a runner, minus that of as many workers without weights.

    Both runners exist at the same time, so that memory shared with each other and with other processes, such as
    libraries, counts the same for both.
    """
    with make(models.convert(models.linear()) if path.suffix == ".mindir" else models.linear(), **options) as empty:
        with make(path, **options) as loaded:
            sums = []
            for runner in (loaded, empty):
                for _ in range(3):
                    runner.predict(feeds_of(runner, rows=12))
            for runner in (loaded, empty):
                pids = [worker["pid"] for worker in runner.stats()["workers"].values()]
                sums.append(sum(map(procs.pss_bytes, pids)))
    return sums[0] - sums[1]


@pytest.mark.parametrize("model", HEAVY)
def test_workers_share_the_memory(cache, model):
    path = HEAVY[model]()
    size = path.stat().st_size
    plain = cost_bytes(path, share_weights=False)
    assert 1.9 * size < plain < 2.5 * size, "one set per worker, and nothing left from loading"
    assert cost_bytes(path) < 1.3 * size, "one set, also in the process that prepared it"
    assert cost_bytes(path) < 1.3 * size
    assert cost_bytes(path, devices="cpu:0-2") < 1.3 * size


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("mslite", marks=pytest.mark.mslite)])
def test_instances_share_the_memory(engine):
    path = models.heavy_products()
    options = {"share_weights": False, "devices": "cpu"}
    if engine == "mslite":
        path = models.convert(path)
        options["worker_python"] = models.mslite_python()
    one, three = (cost_bytes(path, instances=instances, **options) for instances in (1, 3))
    assert one > 0.9 * path.stat().st_size
    assert three - one < 0.3 * path.stat().st_size


# ---- faults of the cache


def test_workers_that_start_at_once_prepare_it_once(cache, capfd):
    predict_bytes(models.heavy_products(), devices="cpu:0-3")
    assert capfd.readouterr().err.count("preparing ") == 1
    assert len(entries(cache)) == 1
    assert not list(cache.glob("models/*/partial"))


def test_copies_of_a_model_share_an_entry(cache, tmp_path):
    """Two processes may prepare two copies at the same time; one of the two is kept."""
    copy = shutil.copy(models.heavy_products(), tmp_path / "copy.onnx")
    results = []
    threads = [
        threading.Thread(target=lambda p=p: results.append(predict_bytes(p))) for p in (copy, models.heavy_products())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
    assert len(entries(cache)) == 1


#: A process that never finishes its preparation: it writes half of a model, and then prints that.
_PREPARES_FOR_EVER = """
import sys
from pathlib import Path
from ascend_parallel.worker.engines.weights_cache import WeightsCache

def prepare(folder):
    (folder / "half of it").write_bytes(b"half of it")
    print("half", flush=True)
    sys.stdin.read()

WeightsCache(Path(sys.argv[1])).fetch(Path(sys.argv[2]), "any", prepare)
"""


def test_a_process_killed_during_preparation_leaves_no_partial_entry(cache, capfd):
    path = models.heavy_products()
    words = [sys.executable, "-c", _PREPARES_FOR_EVER, str(cache), str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"half\n"
        got = []
        thread = threading.Thread(target=lambda: got.append(predict_bytes(path)))
        thread.start()  # its workers wait for the lock, and one of them gets it when the process is killed
        procs.wait_until(lambda: _waits_for_lock(cache, procs.children()), "a worker waits for the lock")
        assert not entries(cache)
        assert not got
        process.kill()
        thread.join(60)
    assert got == [predict_bytes(path, share_weights=False)]
    (entry,) = entries(cache)
    assert sorted(file.name for file in entry.iterdir()) == [MODEL_NAME, "model.weights", "sizes.json"]
    assert not list(cache.glob("models/*/partial"))


def _waits_for_lock(cache, pids):
    """Whether one of these processes waits for a lock, according to the kernel."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(int(words[5]) in pids for words in waiting)


@pytest.mark.parametrize("damage", ["short weights", "no weights", "no model", "no sizes", "rubbish"])
def test_a_damaged_entry_is_created_again(cache, damage, capfd):
    path = models.heavy_products()
    expected = predict_bytes(path)
    (entry,) = entries(cache)
    weights = entry / "model.weights"
    if damage == "short weights":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "rubbish":
        (entry / "sizes.json").write_text("{rubbish")
    else:
        {"no weights": weights, "no model": entry / MODEL_NAME, "no sizes": entry / "sizes.json"}[damage].unlink()
    capfd.readouterr()
    assert predict_bytes(path) == expected
    assert capfd.readouterr().err.count("preparing ") == 1
    assert entries(cache) == [entry]


@pytest.mark.parametrize("where", ["in the model", "apart"])
def test_a_changed_model_is_prepared_again(cache, tmp_path, where):
    """Even if its size and its modification time are unchanged."""
    path = tmp_path / "changing.onnx"
    shutil.copy(models.linear(), path)
    if where == "apart":
        path = with_external_weights(path, tmp_path)
    changing = tmp_path / "apart.bin" if where == "apart" else path
    first = predict_bytes(path)
    status = changing.stat()
    words = models.weights(8, 5).tobytes()
    content = changing.read_bytes()
    assert words in content
    changing.write_bytes(content.replace(words, (2 * models.weights(8, 5)).tobytes()))
    os.utime(changing, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = predict_bytes(path)
    assert second == predict_bytes(path, share_weights=False)
    assert second != first


def test_a_model_is_hashed_once(tmp_path, monkeypatch):
    """A start must not read gigabytes of weights. But a file that has just changed may change again within one tick."""
    hashed = []
    hash_file = weights_cache._hash_file
    monkeypatch.setattr(weights_cache, "_hash_file", lambda path: hashed.append(path) or hash_file(path))
    path = Path(shutil.copy(models.linear(), tmp_path / "model.onnx"))
    cache = WeightsCache(tmp_path / "cache")

    def fetch():
        cache.fetch(path, "", lambda folder: (folder / MODEL_NAME).write_bytes(b"prepared"))
        return len(hashed)

    now_s = path.stat().st_ctime
    monkeypatch.setattr(weights_cache, "time", SimpleNamespace(time=lambda: now_s + 1))
    assert [fetch(), fetch()] == [1, 2]
    monkeypatch.setattr(weights_cache, "time", SimpleNamespace(time=lambda: now_s + 60))
    assert [fetch(), fetch(), fetch()] == [3, 3, 3]
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fetch() == 4, "st_ctime cannot be set back"
    assert len(entries(tmp_path / "cache")) == 1


def test_entries_that_were_not_used_for_long_are_deleted(tmp_path):
    cache = WeightsCache(tmp_path)

    def fetch(variant):
        return cache.fetch(models.linear(), variant, lambda folder: (folder / MODEL_NAME).write_bytes(b"x")).parent

    old, used = fetch("old"), fetch("used")
    for entry in (old, used):
        os.utime(entry / "sizes.json", (time.time() - 40 * 86400,) * 2)
    assert fetch("used") == used
    new = fetch("new")
    assert entries(tmp_path) == sorted([used, new])


def test_weight_files_are_found_in_subgraphs_too(tmp_path):
    inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "inner", [], [])
    tensor = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "x" * 200 + ".bin", offset=0, length=4)
    inner.initializer.append(tensor)
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([node], "outer", [], [])
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert weights_cache.find_files(path) == [path, tmp_path / ("x" * 200 + ".bin")]


# ---- errors


def test_an_unusable_cache_is_a_one_sentence_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    words = (
        r"share_weights keeps a prepared copy of .*linear.* in .*/file/ascend-parallel/weights, which failed .*Not a"
    )
    with pytest.raises(EngineError, match=words):
        make(models.linear()).build_model()


def test_where_the_cache_is(monkeypatch):
    for base, home, expected in [("/a", "/h", "/a"), ("", "/h", "/h/.cache"), ("relative", "/h", "/h/.cache")]:
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        monkeypatch.setenv("HOME", home)
        assert str(weights_cache.cache_root()) == f"{expected}/ascend-parallel/weights"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user without a home
    with pytest.raises(RuntimeError, match="there is no home: set XDG_CACHE_HOME"):
        weights_cache.cache_root()


def test_too_little_disk_space_is_detected_before_it_is_used(cache, monkeypatch):
    free = SimpleNamespace(free=50 << 20)
    monkeypatch.setattr("ascend_parallel.worker.engines.prepared.shutil.disk_usage", lambda path: free)
    runtime = SimpleNamespace(__version__="1.30.0", get_build_info=lambda: "")
    with pytest.raises(RuntimeError, match=r"it needs up to 9\d MB of disk space, and 50 MB are free"):
        fetch_prepared(runtime, models.heavy_products(), {})
    assert not entries(cache)


def test_a_disk_that_becomes_full_leaves_nothing(cache):
    """Files are limited to 20 MB, which onnxruntime cannot distinguish from a full disk."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))\n"
        "from ascend_parallel import ParallelPredictUtils\n"
        "ParallelPredictUtils(sys.argv[1], devices='cpu', share_weights=True).build_model()\n"
    )
    words = [sys.executable, "-c", code, str(models.heavy_products())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "onnxruntime could not prepare " in done.stderr
    assert "is there a quota of less than 96 MB?" in done.stderr
    assert not entries(cache)
    assert not list(cache.glob("models/*/partial"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_onnxruntime_that_is_too_old(cache):
    """1.20 accepts the settings, and ignores them."""
    with pytest.raises(RuntimeError, match=r"needs onnxruntime 1\.21 or newer; .* has 1\.20\.1"):
        fetch_prepared(SimpleNamespace(__version__="1.20.1"), models.linear(), {})
    assert not cache.exists()


REFUSED = {
    "mslite": ("m.mindir", {}, "mslite cannot share weights between processes; the instances of one device"),
    "callable": ("m:f", {}, "callable cannot share weights between processes: leave"),
    "simulated": ("x", {"engine": "simulated", "devices": "simulated:0"}, "simulated cannot share weights"),
    "openvino": ("m.onnx", {"engine_options": {"provider": "openvino"}}, "provider openvino cannot share weights"),
    "openvino in full": (
        "m.onnx",
        {"engine_options": {"provider": "OpenVINOExecutionProvider"}},
        "provider OpenVINOExecutionProvider cannot share weights",
    ),
    "ort format": ("m.ort", {}, "the weights of .onnx files between processes; .*m.ort is none"),
    "no bool": ("m.onnx", {"share_weights": "yes"}, "share_weights is 'yes'; expected True or False"),
}


@pytest.mark.parametrize(("name", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_models_that_cannot_share_are_refused_before_the_start(tmp_path, cache, name, options, words):
    if "." in name:
        name = tmp_path / name
        name.write_bytes(b"\x08\x08 anything")
        if name.suffix == ".mindir":
            name.write_bytes(b"\x0aMindSpore")
    with pytest.raises(UsageError, match=words):
        make(name, **{"engine_options": None, "devices": "cpu:0", **options})
    assert not cache.exists()


def test_devices_that_cannot_share():
    engine = ENGINES["onnxruntime"]
    assert "on cpu devices only, not on gpu ones" in engine.why_not_shareable(["m.onnx"], ["cpu", "gpu"], {})
    for provider in ("cpu", "CPUExecutionProvider"):
        assert engine.why_not_shareable(["m.onnx"], ["cpu"], {"provider": provider}) == ""


def test_a_damaged_memo_is_ignored(cache):
    expected = predict_bytes(models.linear())
    for memo in cache.glob("models/*"):
        (memo / "hash.json").write_text(json.dumps(["no", "dict"]))
    assert predict_bytes(models.linear()) == expected
