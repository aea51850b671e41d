"""What goes wrong in a pipeline behind a server: who is told what, and that nobody beside it notices."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest
from serving.servers import decode_answer, encode_request

from . import wire_ops
from .wire_ops import metric, model, python, serving_pipelines, wait_until

#: The requests of one batch: it is sent once all four have come.
ONE_BATCH = {"max_batch_size": 4, "max_queue_delay_ms": 30_000}
TIMEOUT_MS = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipeline-faults")


@pytest.fixture(scope="module")
def fifo(folder):
    os.mkfifo(folder / "gate")
    gate = os.open(folder / "gate", os.O_RDWR)
    yield lambda count=1: os.write(gate, b"x" * count)
    os.close(gate)


@pytest.fixture(scope="module")
def server(folder, fifo):
    moody = python(
        "moody", "MoodyAround", path="wire_test_ops.py:twice", batching=ONE_BATCH, timeout_ms=TIMEOUT_MS, max_retries=1
    )
    gate = str(folder / "gate")
    pipelines = [
        {"name": "moody", "ops": [python("first", "Echo"), {**moody, "inputs": {"x": "first.x_out"}}]},
        {
            "name": "retried",
            "ops": [python("moody", "Moody", options={"folder": str(folder)}, retry=2, timeout_ms=TIMEOUT_MS)],
        },
        {
            "name": "joined",
            "ops": [
                model("twice", {"x": "request.x"}, max_retries=20),
                python("thrice", "Moody", max_retries=20),
                python("sum", "Sums", {"x": "request.x", "y": "twice.y", "z": "thrice.y"}, max_retries=20),
            ],
        },
        {"name": "rows", "ops": [{**python("rows", "Rows", batching=ONE_BATCH), "path": "wire_test_ops.py:twice"}]},
        {
            "name": "gated",
            "max_queue_size": 4,
            "ops": [
                python("gate", "Gate", options={"fifo": gate}, batching={"max_batch_size": 1}),
                model("after", {"x": "gate.x"}),
            ],
        },
    ]
    with serving_pipelines(folder, *pipelines) as server:
        yield server


def infer(server, pipeline, value, rows=1, **extra):
    """Return (status, headers, body or the outputs) of a request whose rows hold this value."""
    head, body = encode_request({"x": np.full((rows, 3), value, np.float32)}, **extra)
    headers = {"Inference-Header-Content-Length": str(head)}
    status, headers, body = server.request("POST", f"/v2/models/{pipeline}/infer", body, headers)
    return status, headers, decode_answer(headers, body) if status == 200 else json.loads(body)["error"]


def infer_together(server, pipeline, values):
    with concurrent.futures.ThreadPoolExecutor(len(values)) as pool:
        return list(pool.map(lambda value: infer(server, pipeline, value), values))


def failures(server, pipeline, reason):
    return metric(server, "ascend_parallel_inference_request_failure_total", model=pipeline, reason=reason)


# ---- ops that fail


@pytest.mark.parametrize(
    ("bad", "status", "error"),
    [
        (-1, 500, "op 'moody': preprocess raised ValueError: a row of -1"),
        (-2, 500, "SIGKILL"),
        (-4, 500, "op 'moody': postprocess returned None; expected a dict of name -> value"),
        (-5, 422, "the picture is too dark"),
        (-6, 500, "op 'moody': the output 'y' is a dict"),
        (-7, 500, "op 'moody': postprocess returned something that cannot be sent: 'y' is an object"),
    ],
)
def test_only_the_request_that_fails_fails(server, bad, status, error):
    values = [1, bad, 2, 3]
    answers = infer_together(server, "moody", values)
    assert [answer[0] for answer in answers] == [200, status, 200, 200], answers
    assert error in answers[1][2], answers[1]
    for value, answer in zip(values, answers, strict=True):
        assert value == bad or (answer[2]["y"] == 3 * value).all()
    if status == 500:
        wanted = f"request {answers[1][1]['x-request-id']} for model moody"
        wait_until(lambda: any(wanted in line for line in server.lines), "nothing is logged")
        assert len([line for line in server.lines if wanted in line]) == 1


@pytest.mark.parametrize(
    ("bad", "status", "error"),
    [
        (-1, 500, "makes no array"),
        (-2, 500, "op 'rows', mini-batch 1: .* disagree about the number of rows: 'x' has 1, 'z' has 2"),
        (-3, 500, "preprocess returned a list with None at 1; expected a dict"),
    ],
)
def test_feeds_that_do_not_fit_are_told_with_the_op(server, bad, status, error):
    answers = infer_together(server, "rows", [1, 2, bad, 3])
    assert [answer[0] for answer in answers] == [200, 200, status, 200], answers
    assert answers[2][2].startswith("op 'rows'") and re.search(error, answers[2][2]), answers[2]
    assert (answers[3][2]["y"].ravel() == [6, 6, 6, 8, 8, 8]).all()


def test_a_hang_is_cut_and_the_others_of_its_batch_are_computed(server):
    before = server.workers()
    answers = infer_together(server, "moody", [1, 2, -3, 3])
    assert [answer[0] for answer in answers] == [200, 200, 504, 200], answers
    assert "op 'moody'" in answers[2][2] and "0.7 s" in answers[2][2], answers[2]
    assert server.workers() != before
    assert infer_together(server, "moody", [4, 5, 6, 7])[3][0] == 200


def test_an_op_is_tried_again(server, folder):
    assert infer(server, "retried", -8)[0] == 200
    assert (folder / "tries").read_text() == "xxx"
    before_s = time.monotonic()
    status, _, error = infer(server, "retried", -3)
    assert status == 504 and "op 'moody'" in error
    assert time.monotonic() - before_s > 3 * TIMEOUT_MS / 1000
    assert infer(server, "retried", -5)[0] == 422  # not tried again: it would be refused again


def test_nothing_is_lost_while_workers_are_killed(server):
    end = threading.Event()
    answered = threading.Semaphore(0)

    def ask(number):
        found = []
        while not end.is_set():
            value = 1 + number * 1000 + len(found)
            status, _, outputs = infer(server, "joined", value, rows=1 + value % 3)
            found.append((outputs["sum"] == 6 * value).all() if status == 200 else outputs)
            answered.release()
        return found

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask, number) for number in range(16)]
        for kill in range(8):
            for _ in range(20):
                assert answered.acquire(timeout=60)
            workers = server.workers()
            os.kill(workers[kill % len(workers)], signal.SIGKILL)
        end.set()
        answers = [answer for future in asking for answer in future.result()]
    assert {*answers} == {True}


# ---- queues, clients and deadlines


def test_a_full_pipeline_refuses_at_once(server, fifo):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(infer, server, "gated", 7) for _ in range(4)]
        waits = "ascend_parallel_inference_pending_request_count"
        wait_until(lambda: metric(server, waits, model="gated") >= 2, "the pipeline is not full")
        wait_until(lambda: metric(server, waits, model="gated/gate") >= 1, "nothing waits for the op")
        status, headers, error = infer(server, "gated", 1)
        assert (status, headers["retry-after"]) == (503, "1") and "the pipeline is full: it has 4 requests" in error
        fifo(4)
        assert [future.result()[0] for future in running] == [200] * 4
    assert infer(server, "gated", 1)[0] == 200
    assert failures(server, "gated", "rejected") == 1
    assert metric(server, waits, model="gated") == metric(server, waits, model="gated/gate") == 0


def test_a_request_has_its_own_deadline(server, fifo):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, server, "gated", 7)
        batches = "ascend_parallel_inference_running_batch_count"
        wait_until(lambda: metric(server, batches, model="gated") == 1, "the op does not run")
        status, _, error = infer(server, "gated", 1, parameters={"timeout": 50_000, "binary_data_output": True})
        assert status == 504 and "'gate'" in error and "not answered in time" in error, error
        fifo()
        assert running.result()[0] == 200


def test_the_requests_of_a_client_that_is_gone_are_dropped(server, fifo):
    before = failures(server, "gated", "canceled")
    head, body = encode_request({"x": np.full((1, 3), 7, np.float32)})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, server, "gated", 7)
        batches = "ascend_parallel_inference_running_batch_count"
        wait_until(lambda: metric(server, batches, model="gated") == 1, "the op does not run")
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                gone = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                gone.sendall(
                    b"POST /v2/models/gated/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n"
                    b"Content-Length: %d\r\n\r\n" % (head, len(body)) + body
                )
            held = "ascend_parallel_inference_pending_request_count"
            wait_until(lambda: metric(server, held, model="gated") >= 1, "the requests do not wait")
            wait_until(lambda: metric(server, batches, model="gated") == 2, "the requests do not wait")
        wait_until(lambda: failures(server, "gated", "canceled") == before + 2, "the requests are not dropped")
        fifo(2)  # the second is in the worker already
        assert running.result()[0] == 200
    assert infer(server, "gated", 1)[0] == 200


# ---- memory


def test_a_slow_op_in_the_middle_takes_no_memory(tmp_path):
    """Hundreds of requests: what lies between the ops is bounded, however many wait."""
    small = {"max_batch_size": 2}
    ops = [
        python("large", "Large", batching=small),
        python("slow", "Slow", "large", batching=small, options={"seconds": 0.01}),
        python("end", "Echo", "slow", batching=small),
    ]
    pipeline = {"name": "p", "max_queue_size": 200, "ops": ops}
    with serving_pipelines(tmp_path, pipeline) as server:
        head, body = encode_request({"x": np.ones((1, 1 << 16), np.float32)})
        headers = {"Inference-Header-Content-Length": str(head)}
        peak_mib = 0.0

        def ask(_):
            return server.request("POST", "/v2/models/p/infer", body, headers)[0]

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            asked = [pool.submit(ask, number) for number in range(200)]
            while not all(future.done() for future in asked):
                peak_mib = max(peak_mib, sum(held_mib(server, f"p/{op['name']}") for op in ops))
            assert [future.result() for future in asked] == [200] * 200
        # 50 MiB of inputs, and of at most 12 requests what "large" gave, in blocks of 8 MiB; all would be 1600 MiB
        assert peak_mib < 700
        assert ask(0) == 200


def held_mib(server, op):
    return metric(server, "ascend_parallel_shared_memory_bytes", model=op) / 2**20


def test_the_bodies_of_all_requests_are_bounded(folder, tmp_path, fifo):
    gate = str(folder / "gate")
    ops = [python("gate", "Gate", options={"fifo": gate}, batching={"max_batch_size": 1})]
    with serving_pipelines(
        tmp_path, {"name": "gated", "ops": ops}, max_pending_bytes=200_000, max_body_bytes=150_000
    ) as server:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(infer, server, "gated", 7, rows=10_000)
            batches = "ascend_parallel_inference_running_batch_count"
            wait_until(lambda: metric(server, batches, model="gated") == 1, "the op does not run")
            status, headers, error = infer(server, "gated", 1, rows=10_000)
            assert status == 503 and "max_pending_bytes" in error and "Retry-After" in str(headers).title()
            fifo()
            assert running.result()[0] == 200
        assert infer(server, "gated", 1, rows=10_000)[0] == 200


# ---- loading and the end


def test_a_pipeline_is_loaded_anew_and_unloaded_without_dropping_a_request(tmp_path):
    ops = [python("moody", "Moody"), model("twice", {"x": "moody.y"})]
    with serving_pipelines(tmp_path, {"name": "p", "ops": ops}, allow_control=True) as server:
        end = threading.Event()

        def ask(number):
            statuses = []
            while not end.is_set():
                status, _, outputs = infer(server, "p", number)
                # before, and after
                statuses.append(outputs["y"].flat[0] / number in (6, 9) if status == 200 else outputs)
            return statuses

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, 1 + number) for number in range(8)]
            before = server.workers()
            wire_ops.write_config(
                tmp_path, {"name": "p", "ops": [python("moody", "Moody"), python("twice", "Moody", {"x": "moody.y"})]}
            )
            assert server.request("POST", "/v2/repository/models/p/load")[0] == 200
            end.set()
            found = [answer for future in asking for answer in future.result()]
        assert {*found} == {True} and len(found) >= 8
        wait_until(lambda: not {*before} & {*server.workers()}, "the workers of before are there")
        assert (infer(server, "p", 1)[2]["y"] == 9).all()
        assert server.request("POST", "/v2/repository/models/p/unload")[0] == 200
        assert infer(server, "p", 1)[0] == 404
        wait_until(lambda: not server.workers(), "workers are left")


def test_sigterm_under_load_loses_nothing(tmp_path):
    ops = [python("moody", "Moody"), model("twice", {"x": "moody.y"})]
    with serving_pipelines(tmp_path, {"name": "p", "ops": ops}, drain_timeout_s=4) as server:
        first = threading.Barrier(9)

        def ask(number):
            statuses = []
            while True:
                try:
                    status, _, outputs = infer(server, "p", number)
                except ConnectionRefusedError:
                    return statuses
                statuses.append(status if status != 200 else bool((outputs["y"] == 6 * number).all()))
                if len(statuses) == 1:
                    first.wait(30)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, 1 + number) for number in range(8)]
            first.wait(30)
            workers = server.workers()
            server.process.send_signal(signal.SIGTERM)
            found = [answer for future in asking for answer in future.result()]
        assert server.process.wait(60) == 0
        assert {*found} == {True}
        assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
