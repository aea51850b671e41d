"""`Pipeline` without a server: threads, event loops, Ctrl-C, forks and the interpreter's end."""

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from faults import procs

from ascend_parallel import Pipeline
from ascend_parallel.errors import (
    DeadlineError,
    EngineError,
    OverloadedError,
    RefusedError,
    RunnerClosedError,
    UsageError,
    WorkerTimeout,
)
from ascend_parallel.pipelines.loop_thread import LoopThread

from .wire_ops import model, python, wait_until, write_ops


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline-in-python")
    write_ops(folder)
    os.mkfifo(folder / "gate")
    return folder


def in_folder(folder, op):
    """Return the settings of an op with its file found from the folder."""
    return {**op, **{key: str(folder / op[key]) for key in ("python", "path") if key in op}}


@pytest.fixture(scope="module")
def fifo(folder):
    gate = os.open(folder / "gate", os.O_RDWR)
    yield lambda count=1: os.write(gate, b"x" * count)
    os.close(gate)


@pytest.fixture(scope="module")
def pipeline(folder):
    ops = [
        model("twice", {"x": "request.x"}),
        python("thrice", "Moody", timeout_ms=700),
        python("sum", "Sums", {"x": "request.x", "y": "twice.y", "z": "thrice.y"}, concurrency=2),
    ]
    with Pipeline([in_folder(folder, op) for op in ops], max_queue_size=600) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def gated(folder, fifo):
    op = python("gate", "Gate", options={"fifo": str(folder / "gate")}, batching={"max_batch_size": 1})
    with Pipeline([in_folder(folder, op)], max_queue_size=3) as pipeline:
        yield pipeline


# These two come first: the others share pipelines.


def test_closed_pipelines_leave_nothing(folder, leaves_nothing):
    pipeline = Pipeline([in_folder(folder, python("thrice", "Moody"))])
    with pytest.raises(RunnerClosedError, match="not built"):
        pipeline.predict({"x": np.ones(1)})
    for _ in range(2):
        with pipeline:
            found = pipeline.predict({"x": np.ones((1, 3), np.float32)})["y"]
            hanging = pipeline.submit({"x": np.array([-3.0])})
        assert isinstance(hanging.exception(30), OverloadedError | RunnerClosedError)
        assert (found == 3).all()
    with pytest.raises(RunnerClosedError, match="not built"):
        pipeline.predict({"x": np.ones(1)})
    pipeline.close()


def test_a_build_that_fails_leaves_nothing(folder, leaves_nothing):
    ops = [python("gate", "Gate"), python("thrice", "Moody", "gate")]  # Gate needs an option
    with pytest.raises(EngineError, match="op 'gate'.*fifo"):
        Pipeline([in_folder(folder, op) for op in ops]).build()


async def answer():
    return "answer"


async def submit_and_close(thread):
    future = thread.submit(answer())
    thread.close()
    return future


def test_what_is_submitted_while_the_loop_is_closed_is_answered_or_refused():
    thread = LoopThread("test")
    submitted = thread.submit(submit_and_close(thread)).result(30)
    assert submitted.result(30) == "answer"
    with pytest.raises(RunnerClosedError, match="closed by another thread"):
        thread.submit(answer())


def test_16_threads_submit_at_once(pipeline):
    start = threading.Barrier(16)

    def work(number):
        rng = np.random.default_rng(number)
        arrays = [rng.standard_normal((rng.integers(1, 5), rng.integers(1, 9))).astype(np.float32) for _ in range(30)]
        start.wait(30)
        futures = [pipeline.submit({"x": x}) for x in arrays]
        sums = [future.result(60)["sum"] for future in futures]
        return [found.tobytes() == (x + x * 2 + x * 3).tobytes() for x, found in zip(arrays, sums, strict=True)]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(all(found) for found in pool.map(work, range(16)))


def test_values_are_as_the_ops_gave_them(folder):
    op = in_folder(folder, python("kinds", "Kinds"))
    with Pipeline([op]) as pipeline:
        outputs = pipeline.predict({"x": np.zeros(1)})
        assert outputs["flag"] is True and outputs["number"] == 7 and outputs["text"] == "gr\u00fcn"
        assert outputs["rows"] == [[1.5, 2.5], [3.5, 4.5]] and outputs["none"] == []
        assert pipeline.predict({"x": np.array([2.0])})["wrong"] == {"a": 1}


def test_each_failure_is_its_own(pipeline):
    futures = {value: pipeline.submit({"x": np.full((1, 2), value, np.float32)}) for value in (1, -1, -3, -4, -5, 2)}
    expected = {-1: EngineError, -3: WorkerTimeout, -4: EngineError, -5: RefusedError}
    for value, future in futures.items():
        if value in expected:
            with pytest.raises(expected[value]) as seen:
                future.result(60)
            assert value == -5 or "op 'thrice'" in str(seen.value)
        else:
            assert (future.result(60)["sum"] == 6 * value).all()


def test_map_keeps_the_order_and_ends_when_its_reader_does(pipeline):
    arrays = [np.full((1 + n % 3, 2), n, np.float32) for n in range(40)]
    for n, outputs in enumerate(pipeline.map({"x": x} for x in arrays)):
        assert (outputs["sum"] == 6 * n).all()
        if n == 30:
            break
    assert (pipeline.predict({"x": np.ones((1, 1), np.float32)})["sum"] == 6).all()


def test_a_coroutine_is_cancelled_and_others_go_on(gated, fifo):
    async def run():
        first = asyncio.ensure_future(gated.predict_async({"x": np.array([7.0])}))
        second = asyncio.ensure_future(gated.predict_async({"x": np.array([7.0])}))
        await asyncio.sleep(0.05)  # the first is in the worker, the second waits for it or lies there
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        fifo()
        assert (await first)["x"] == [7.0]
        fifo()  # for the second, if it was there
        return await gated.predict_async({"x": np.array([1.0])})

    assert asyncio.run(run())["x"] == [1.0]


def test_a_full_pipeline_refuses(gated, fifo):
    futures = [gated.submit({"x": np.array([7.0])}) for _ in range(3)]
    with pytest.raises(OverloadedError, match="the pipeline is full: it has 3 requests"):
        gated.predict({"x": np.array([1.0])})
    fifo(3)
    assert [future.result(60)["x"] for future in futures] == [[7.0]] * 3


def test_a_deadline(gated, fifo):
    first = gated.submit({"x": np.array([7.0])})
    with pytest.raises(DeadlineError, match="'gate'"):
        gated.predict({"x": np.array([1.0])}, timeout_s=0.1)
    fifo()
    first.result(60)


def test_ctrl_c_in_predict_gives_the_request_up(gated, fifo):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        gated.predict({"x": np.array([7.0])})
    fifo()
    assert gated.predict({"x": np.array([1.0])})["x"] == [1.0]


def test_predict_in_a_callback_is_told_what_to_do(gated, fifo):
    seen = []

    def call(future):
        try:
            seen.append(gated.predict({"x": np.array([1.0])}))
        except Exception as error:
            seen.append(error)

    future = gated.submit({"x": np.array([7.0])})
    future.add_done_callback(call)  # it is not done: the gate is closed
    fifo()
    wait_until(lambda: seen, "no callback")
    assert isinstance(seen[0], UsageError) and "predict was called in a future's callback" in str(seen[0])


SCRIPT = """
import os, sys
import numpy as np
from ascend_parallel import Pipeline

pipeline = Pipeline([{{"name": "thrice", "python": {ops!r} + ":Moody"}}])
pipeline.build()
for thread in os.listdir("/proc/self/task"):
    print(open(f"/proc/self/task/{{thread}}/children").read(), end="")
print(flush=True)
assert (pipeline.predict({{"x": np.ones((1, 2), np.float32)}})["y"] == 3).all()
{end}
"""
ENDS = {
    "no close": "",
    "a request under way": "future = pipeline.submit({'x': np.array([-3.0])})",
    "an exception": "raise SystemExit(7)",
    "a fork": (
        "if not (child := os.fork()):\n    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert (pipeline.predict({'x': np.ones((1, 2), np.float32)})['y'] == 3).all()"
    ),
    "a fork that ends as scripts do": (
        "child = os.fork()\n"
        "if child:\n    os.waitpid(child, 0)\n"
        "    assert (pipeline.predict({'x': np.ones((1, 2), np.float32)})['y'] == 3).all()"
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_s_end_leaves_no_process(folder, end):
    script = SCRIPT.format(ops=str(folder / "wire_test_ops.py"), end=ENDS[end])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == (7 if end == "an exception" else 0), done.stderr
    assert "Traceback" not in done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    wait_until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")], "workers are left")


def test_ctrl_c_ends_a_script(folder):
    end = "print('hangs', flush=True)\npipeline.predict({'x': np.array([-3.0])})"
    script = SCRIPT.format(ops=str(folder / "wire_test_ops.py"), end=end)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert process.stdout.readline() == "hangs\n"
    time.sleep(0.1)  # it is in predict, or about to be
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors
    wait_until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")], "workers are left")


def test_all_tests_here_leave_no_other_workers():
    """The two pipelines of this module's fixtures have six workers."""
    assert len(procs.children()) <= 6
