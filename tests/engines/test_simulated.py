"""The simulated engine: the first input is returned after a configured time, from devices named ``simulated``."""

import time

import numpy as np
import pytest
from conftest import DTYPES

from ascend_parallel import EngineError, ParallelPredictUtils


def make(devices="simulated:0,1", **options):
    arguments = {key: options.pop(key) for key in ("chunk_size", "instances", "batch_axes") if key in options}
    return ParallelPredictUtils("m", engine="simulated", devices=devices, engine_options=options, **arguments)


@pytest.fixture(scope="module", params=[1, 2, 3])
def runner(request):
    with make(f"simulated:0-{request.param - 1}") as runner:
        yield runner


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_devices_returns_the_input(runner, dtype):
    for rows in (1, 2, 7, 20):
        x = np.random.default_rng(rows).integers(0, 200, (rows, 3, 2)).astype(dtype)
        for layout in (x, np.asfortranarray(x), x[::-1], x[:, ::2], x.astype(x.dtype.newbyteorder(">"))):
            for _ in range(2):
                got = runner.predict({"x": layout})["output"]
                assert got.dtype == x.dtype
                np.testing.assert_array_equal(got, layout)


def test_instances_share_a_worker():
    with make("simulated:0", instances=4, chunk_size=1, ms_per_row=100) as runner:
        started_s = time.monotonic()
        runner.predict([np.arange(4)])
        assert time.monotonic() - started_s < 0.35, "four rows of 100 ms at the same time"
        assert list(runner.stats()["workers"]) == ["simulated:0"]


def test_time_depends_on_rows_and_device():
    with make(ms_per_row=20, slowdown={1: 3}, chunk_size=1) as runner:
        runner.predict([np.arange(8)])
        workers = runner.stats()["workers"]
        pace = {name: worker["busy_s"] / max(1, worker["rows"]) for name, worker in workers.items()}
        assert 0.019 < pace["simulated:0"] < 0.06 <= pace["simulated:1"]
        assert workers["simulated:0"]["rows"] > workers["simulated:1"]["rows"], "the faster one pulls more"


def test_its_devices_are_named_simulated():
    with make() as runner:
        assert all(name.startswith("simulated:") for name in runner.stats()["workers"])
        assert {device.type for device in runner.devices} == {"simulated"}


def test_an_unknown_fault_is_an_error():
    with pytest.raises(EngineError, match="fault is 'explode'; expected one of raise, hang"):
        make(fault="explode").build_model()


def test_a_0_d_input_is_one_row():
    with make() as runner:
        assert runner.predict([np.float32(3)])[0] == 3
