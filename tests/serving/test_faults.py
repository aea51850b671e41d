"""What goes wrong while the server serves: who is told what, and that it goes on."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest

from ascend_parallel.backends.backend import WorkerChange
from ascend_parallel.errors import WorkerDied
from ascend_parallel.serving import worker_log

from .servers import decode_answer, encode_request, serving
from .serving_models import write_factories


@pytest.fixture
def folder(tmp_path):
    write_factories(tmp_path)
    return tmp_path


@contextlib.contextmanager
def serving_model(folder, factory, *, server=None, **settings):
    """Serve one model of the factories' file with these settings."""
    config = folder / "config.json"  # which is YAML, too
    model = {"path": f"serving_factories.py:{factory}", "name": "m", "devices": "cpu:0", **settings}
    config.write_text(json.dumps({"port": 0, "models": [model], **(server or {})}))
    config = config.rename(config.with_suffix(".yml"))
    with serving(config) as running:
        yield running


def infer(server, value, rows=1):
    """Return (status, headers, body or the outputs) of a request whose rows hold this value."""
    head, body = encode_request({"x": np.full((rows, 3), value, np.float32)})
    headers = {"Inference-Header-Content-Length": str(head)}
    status, headers, body = server.request("POST", "/v2/models/m/infer", body, headers)
    return status, headers, decode_answer(headers, body) if status == 200 else json.loads(body)["error"]


def infer_together(server, values):
    """Send one request for each value, at the same time; return the answers in their order."""
    with concurrent.futures.ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(lambda value: infer(server, value), values))


def stats_of(server):
    return json.loads(server.request("GET", "/v2/models/m/stats")[2])["model_stats"][0]


def wait_until(is_true, what):
    """Wait for something outside of this process that sends no event."""
    end_s = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end_s, what
        time.sleep(0.005)


#: The requests of one batch: it is sent once all four have come.
ONE_BATCH = {"max_batch_size": 4, "max_queue_delay_ms": 30_000}


@pytest.mark.parametrize(("bad", "error"), [(-1, "a row of -1"), (-2, "SIGKILL")])
@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_only_the_request_that_fails_fails(folder, bad, error, workers):
    if (bad, workers) == (-2, "threads"):
        pytest.skip("a model that kills its process kills a server of threads")
    with serving_model(folder, "moody", batching=ONE_BATCH, workers=workers) as server:
        answers = infer_together(server, [1, 2, bad, 3])
        assert [status for status, *_ in answers] == [200, 200, 500, 200]
        assert error in answers[2][2]
        for value, (status, _, outputs) in zip([1, 2, bad, 3], answers, strict=True):
            assert status == 500 or (outputs["y"] == 2 * value).all()
        assert infer_together(server, [4, 5, 6, 7])[3][0] == 200


def test_a_hang_is_cut_at_its_timeout(folder):
    with serving_model(folder, "moody", batching={"timeout_ms": 1500}) as server:
        before = server.workers()
        status, _, error = infer(server, -3)
        assert status == 504 and "ms" in error
        assert infer(server, 5)[0] == 200
        assert server.workers() != before


def test_a_full_queue_answers_at_once(folder):
    fifo = folder / "gate"
    os.mkfifo(fifo)
    batching = {"max_batch_size": 1, "max_queue_size": 2}
    with (
        serving_model(folder, "gated", engine_options={"fifo": str(fifo)}, batching=batching) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        running = [pool.submit(infer, server, 7) for _ in range(4)]  # one runs, one lies in the worker, two wait
        wait_until(lambda: pending(server) == 2, "the queue is not full")
        status, headers, error = infer(server, 1)
        assert (status, headers["retry-after"]) == (503, "1") and "queue is full" in error
        for _ in running:
            open_gate(fifo)
        assert [future.result()[0] for future in running] == [200] * 4


def pending(server):
    text = server.request("GET", "/metrics")[2].decode()
    line = next(line for line in text.splitlines() if line.startswith("ascend_parallel_inference_pending"))
    return float(line.rpartition(" ")[2])


def open_gate(fifo):
    gate = os.open(fifo, os.O_RDWR)
    os.write(gate, b"1")
    os.close(gate)


def test_the_rows_of_a_client_that_is_gone_are_not_computed(folder):
    fifo = folder / "gate"
    os.mkfifo(fifo)
    with (
        serving_model(folder, "gated", engine_options={"fifo": str(fifo)}, batching={"max_batch_size": 1}) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        running = [pool.submit(infer, server, 7) for _ in range(2)]
        wait_until(lambda: len(calls(fifo)) == 1, "the model does not run")
        head, body = encode_request({"x": np.full((1, 3), 5, np.float32)})
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(
                b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n"
                b"Content-Length: %d\r\n\r\n" % (head, len(body)) + body
            )
            wait_until(lambda: pending(server) >= 1, "the request does not wait")
        wait_until(lambda: stats_of(server)["inference_stats"]["fail"]["count"] == 1, "the request is not dropped")
        for _ in running:
            open_gate(fifo)
        assert [future.result()[0] for future in running] == [200] * 2
        assert infer(server, 6)[0] == 200
        assert calls(fifo) == ["7", "7", "6"] or calls(fifo) == ["0", "7", "7", "6"]


def calls(fifo):
    path = fifo.with_suffix(".calls")
    return path.read_text().split() if path.exists() else []


def test_ready_tells_whether_a_worker_is_there(folder):
    with serving_model(folder, "twice") as server:
        assert server.request("GET", "/v2/health/ready")[0] == 200
        os.kill(server.workers()[0], signal.SIGKILL)
        seen = []

        def status():
            seen.append(server.request("GET", "/v2/health/ready")[0])
            return seen[-1]

        wait_until(lambda: status() == 503, "ready stays true")
        assert server.request("GET", "/v2/health/live")[0] == 200
        wait_until(lambda: status() == 200, "ready stays false")
        assert infer(server, 1)[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_the_end(folder, number):
    fifo = folder / "gate"
    os.mkfifo(fifo)
    with (
        serving_model(folder, "gated", engine_options={"fifo": str(fifo)}) as server,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        running = pool.submit(infer, server, 7)
        wait_until(lambda: len(calls(fifo)) == 1, "the model does not run")
        workers = server.workers()
        server.process.send_signal(number)
        wait_until(lambda: any("ending" in line for line in server.lines), "the signal is not heard")
        open_gate(fifo)
        assert running.result()[0] == 200
        assert server.end() == 0
        assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]


def test_the_end_is_bounded_in_time(folder):
    with serving_model(folder, "moody", server={"drain_timeout_s": 1.0}) as server:
        workers = server.workers()
        hanging = threading.Thread(target=try_infer, args=(server, -3))
        hanging.start()
        wait_until(lambda: running_batches(server) == 1, "the model does not run")
        assert server.end() == 0
        hanging.join()
        assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]


def test_a_second_ctrl_c_ends_at_once(folder):
    with serving_model(folder, "moody", server={"drain_timeout_s": 600.0}) as server:
        hanging = threading.Thread(target=try_infer, args=(server, -3))
        hanging.start()
        wait_until(lambda: running_batches(server) == 1, "the model does not run")
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: any("ending" in line for line in server.lines), "the signal is not heard")
        assert server.end(signal.SIGINT) == 0
        hanging.join()


def try_infer(server, value):
    with contextlib.suppress(OSError, AssertionError):
        infer(server, value)


def running_batches(server):
    text = server.request("GET", "/metrics")[2].decode()
    line = next(line for line in text.splitlines() if line.startswith("ascend_parallel_inference_running"))
    return float(line.rpartition(" ")[2])


def test_nothing_is_left_of_a_server_that_is_killed(folder):
    with serving_model(folder, "twice") as server:
        workers = server.workers()
        assert workers
        server.end(signal.SIGKILL)
        wait_until(lambda: not [pid for pid in workers if os.path.exists(f"/proc/{pid}")], "workers live on")


def test_a_model_is_loaded_again_without_a_lost_request(folder):
    with (
        serving_model(folder, "twice", server={"allow_control": True}) as server,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        ends = threading.Event()

        def load():
            statuses = []
            while not ends.is_set():
                statuses.append(infer(server, 2)[0])
            return statuses

        clients = [pool.submit(load) for _ in range(3)]
        before = server.workers()
        for _ in range(2):
            assert server.request("POST", "/v2/repository/models/m/load")[0] == 200
        ends.set()
        assert {status for client in clients for status in client.result()} == {200}
        assert not set(before) & set(server.workers())


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(folder):
    with serving_model(folder, "twice", server={"allow_control": True}) as server:
        config = folder / "config.yml"
        config.write_text(config.read_text().replace(":twice", ":nothing"))
        status, _, body = server.request("POST", "/v2/repository/models/m/load")
        assert (status == 500 and b"the configuration is wrong now" in body) or b"nothing" in body
        assert infer(server, 2)[0] == 200
        assert server.request("POST", "/v2/repository/models/other/load")[0] == 404


def test_a_model_is_unloaded(folder):
    with serving_model(folder, "twice", server={"allow_control": True}) as server:
        assert server.request("POST", "/v2/repository/models/m/unload")[0] == 200
        assert infer(server, 2)[0] == 404
        assert server.request("POST", "/v2/repository/models/m/load")[0] == 200
        assert infer(server, 2)[0] == 200


def test_clients_do_not_load_models_unless_they_may(folder):
    with serving_model(folder, "twice") as server:
        for verb in ("load", "unload"):
            status, _, body = server.request("POST", f"/v2/repository/models/m/{verb}")
            assert status == 403 and b"allow_control" in body


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_end_of_an_idle_worker_is_logged(folder, log_format):
    (folder / "chatty.py").write_text(
        "def make(device=None):\n    print('chip 3 is hot')\n    return lambda inputs: {'y': inputs['x'] * 2}\n"
    )
    with serving_model(folder, "", path="chatty.py:make", server={"log_format": log_format}) as server:
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "is ready again" in " ".join(server.lines), server.lines)
        assert infer(server, 2)[0] == 200
        assert server.end() == 0
    log = "\n".join(server.lines)
    assert log.count("is replaced") == log.count("ready again") == 1  # the end of the server is none of a worker's
    failed = log[log.index("worker cpu:0 of model m version 1 failed and is replaced") :]
    told = "replaced: the worker of cpu:0 died while it was idle (SIGKILL, often the out-of-memory killer: see dmesg)"
    assert told in failed and "chip 3 is hot" in failed[: failed.index("is ready again")]
    if log_format == "json":
        found = [json.loads(line) for line in server.lines if "cpu:0 of model m" in line]
        assert [(entry["level"], entry["worker"]) for entry in found] == [("warning", "cpu:0"), ("info", "cpu:0")]


def test_a_worker_that_ends_again_and_again_is_logged_a_few_times(caplog, monkeypatch):
    class Loop:
        """Keeps what is to be called later."""

        def __init__(self):
            self.later = []

        def call_soon_threadsafe(self, callback, *arguments):
            callback(*arguments)

        def call_later(self, delay_s, callback):
            self.later.append(callback)

    monkeypatch.setattr(worker_log.logger, "propagate", True)
    caplog.set_level("INFO", worker_log.logger.name)
    loop = Loop()
    log = worker_log.WorkerLog("m", "1", loop)
    for _ in range(8):
        log.note(WorkerChange("cpu:0", WorkerDied("it died")))
        log.note(WorkerChange("cpu:0"))
    log.note(WorkerChange("cpu:0", WorkerDied("it died"), is_out=True))
    assert len(caplog.messages) == 2 * worker_log.MAX_LOGGED + 1
    [end_window] = loop.later
    end_window()
    assert caplog.messages[-3:] == [
        "worker cpu:0 of model m version 1 failed more often than max_restarts allows, and is not replaced: it died",
        "workers of model m version 1 failed 3 more times within 60 s",
        "workers of model m version 1 became ready again 3 more times within 60 s",
    ]
