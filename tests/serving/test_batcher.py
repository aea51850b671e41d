"""Dynamic batching in one process, on real backends: each answer is its own, whatever is joined with it."""

import asyncio
import contextlib
import threading
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ascend_parallel import (
    DeadlineError,
    EngineError,
    OverloadedError,
    ParallelPredictUtils,
    ShapeError,
    TooLargeError,
)
from ascend_parallel.serving.batcher import Limits
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.serving.served_model import ServedModel

from .serving_models import write_factories


class Client:
    """Sends requests to a model that is served in this process."""

    def __init__(self, model):
        self.model = model
        self.loop = asyncio.get_running_loop()
        self.order = []

    def send(self, inputs, **arguments):
        """Queue a request; return its future and the request."""
        future = self.loop.create_future()

        def on_done(request):
            assert not future.done(), "answered twice"
            self.order.append(request)
            if request.error is None:
                future.set_result(request.outputs)
            else:
                future.set_exception(request.error)

        request = InferRequest(tuple(inputs), list(inputs.values()), on_done, **arguments)
        self.model.add(request)
        return future, request

    async def infer(self, **inputs):
        return await self.send(inputs)[0]


class Loop:
    """An event loop in a thread of its own, so that a test can await one coroutine after the other."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextlib.contextmanager
def serving_in_loop(runner, limits):
    """Yield (loop, client) of a model that is loaded."""
    loop = Loop()
    model = ServedModel("m", "1", runner, limits=limits)

    async def load():
        await model.load()
        return Client(model)

    try:
        yield loop, loop.run(load())
        loop.run(model.unload(10))
    finally:
        runner.close()
        loop.close()


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    return write_factories(tmp_path_factory.mktemp("batcher"))


def make_onnx(path, inputs, nodes, outputs):
    """Write an ONNX model; inputs and outputs are name -> shape."""

    def tell(tensors):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors.items()]

    graph = helper.make_graph(nodes, "test", tell(inputs), tell(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 5),  # rows
        st.integers(1, 3),  # columns: requests of different columns cannot be joined
        st.sampled_from(["good"] * 6 + ["raises", "canceled"]),
        st.booleans(),  # whether the loop turns before the next
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_each_answer_is_its_own(factories, workers):
    runner = ParallelPredictUtils(f"{factories}:moody", devices="cpu:0,1", workers=workers)
    with serving_in_loop(runner, Limits(8)) as (loop, client):

        @settings(max_examples=60, deadline=None)
        @given(REQUESTS)
        def check(requests):
            loop.run(send_and_check(client, requests))

        check()


async def send_and_check(client, requests):
    sent = []
    for number, (rows, columns, kind, turns) in enumerate(requests):
        x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) + 10 * number + 1
        if kind == "raises":
            x[-1, 0] = -1
        future, request = client.send({"x": x})
        if turns:
            await asyncio.sleep(0)
        if kind == "canceled" and not future.done():
            client.model.cancel(request)
        sent.append((x, kind, future))
    for x, kind, future in sent:
        if kind == "good":
            assert np.array_equal((await future)["y"], 2 * x)
        elif kind == "raises":
            with pytest.raises(EngineError, match="a row of -1"):
                await future
    assert client.model.waiting == 0


def test_requests_of_a_group_are_answered_in_their_order(factories):
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0")
    with serving_in_loop(runner, Limits(4)) as (loop, client):

        async def send():
            sent = [client.send({"x": np.full((1 + i % 3, 2), i, np.float32)}) for i in range(200)]
            await asyncio.gather(*[future for future, _ in sent])
            assert client.order == [request for _, request in sent]

        loop.run(send())


def test_idle_workers_share_what_waits(factories):
    """Eight requests that come together are two batches of four: no worker stays idle beside a full one."""
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0,1")
    with serving_in_loop(runner, Limits(16)) as (loop, client):

        async def send_eight():
            sent = [client.send({"x": np.full((1, 4), number, np.float32)}) for number in range(8)]
            await asyncio.gather(*[future for future, _ in sent])
            return sent

        sent = loop.run(send_eight())
        assert [request.batch_rows for _, request in sent] == [4] * 8
        assert len({request.worker for _, request in sent}) == 2


def test_requests_that_come_close_behind_each_other_are_one_batch(factories):
    """A turn of the loop reads but some of what many clients send at about the same time."""
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0")
    with serving_in_loop(runner, Limits(16)) as (loop, client):

        async def send_one_each_turn():
            sent = []
            for number in range(5):
                sent.append(client.send({"x": np.full((1, 4), number, np.float32)}))
                await asyncio.sleep(0)
            await asyncio.gather(*[future for future, _ in sent])
            return [request.batch_rows for _, request in sent]

        assert loop.run(send_one_each_turn()) == [5] * 5


def test_a_full_batch_is_sent_while_others_are_read(factories):
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0")
    with serving_in_loop(runner, Limits(4)) as (loop, client):

        async def send_five():
            sent = [client.send({"x": np.full((1, 4), number, np.float32)}) for number in range(5)]
            state = client.model.running, client.model.waiting
            await asyncio.gather(*[future for future, _ in sent])
            return state

        assert loop.run(send_five()) == (1, 1)


def test_a_batch_of_fixed_size_is_filled_before_it_is_shared(tmp_path):
    """It takes as long with one row as with four, so the others of two idle workers would gain nothing."""
    path = make_onnx(
        tmp_path / "fixed.onnx", {"x": [4, 3]}, [helper.make_node("Add", ["x", "x"], ["y"])], {"y": [4, 3]}
    )
    with serving_in_loop(ParallelPredictUtils(path, devices="cpu:0,1"), Limits(16)) as (loop, client):

        async def send_four():
            sent = [client.send({"x": np.full((1, 3), number, np.float32)}) for number in range(4)]
            await asyncio.gather(*[future for future, _ in sent])
            return [request.batch_rows for _, request in sent]

        assert loop.run(send_four()) == [4] * 4


@pytest.mark.parametrize("delay_s", [0.02, 0.05])
def test_the_delay_is_a_deadline_from_the_first_row(factories, delay_s):
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0")
    with serving_in_loop(runner, Limits(1000, max_delay_s=delay_s)) as (loop, client):

        async def send():
            futures = []
            for _ in range(40):  # requests keep coming: each would prolong a window that began anew
                futures.append(client.send({"x": np.ones((1, 2), np.float32)})[0])
                await asyncio.sleep(delay_s / 5)
            await asyncio.gather(*futures)
            return client.model.stats

        stats = loop.run(send())
        assert stats.batches < 40 / 2
        assert max(request.sent_s - request.arrived_s for request in client.order) < 10 * delay_s
        first_of_batch = {request.sent_s: request for request in reversed(client.order)}
        waits = sorted(request.sent_s - request.arrived_s for request in first_of_batch.values())
        assert waits[0] >= delay_s * 0.9 and waits[len(waits) // 2] < 2 * delay_s


def test_a_model_of_fixed_batch_is_padded(tmp_path):
    path = make_onnx(
        tmp_path / "fixed.onnx", {"x": [4, 3]}, [helper.make_node("Add", ["x", "x"], ["y"])], {"y": [4, 3]}
    )
    with serving_in_loop(ParallelPredictUtils(path, devices="cpu:0,1"), Limits(16)) as (loop, client):

        async def send():
            inputs = [np.random.rand(1 + i % 6, 3).astype(np.float32) for i in range(60)]
            answers = await asyncio.gather(*[client.infer(x=x) for x in inputs])
            for x, outputs in zip(inputs, answers, strict=True):
                assert np.array_equal(outputs["y"], 2 * x)

        loop.run(send())
        assert client.model.max_rows == 4
        assert client.model.stats.batches < 60


def test_an_input_without_rows_joins_only_equal_ones(tmp_path):
    path = make_onnx(
        tmp_path / "two.onnx",
        {"x": ["batch", 3], "z": ["batch", 3], "step": ["steps"]},
        [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Mul", ["s", "step"], ["y"])],
        {"y": ["batch", 3]},
    )
    with serving_in_loop(ParallelPredictUtils(path, devices="cpu:0"), Limits(64)) as (loop, client):

        async def send():
            inputs = [
                {
                    "step": np.array([1 + i % 2], np.float32),
                    "x": np.full((1 + i % 2, 3), i, np.float32),
                    "z": np.ones((1 + i % 2, 3), np.float32),
                }
                for i in range(40)
            ]
            answers = await asyncio.gather(*[client.infer(**each) for each in inputs])
            for each, outputs in zip(inputs, answers, strict=True):
                assert np.array_equal(outputs["y"], (each["x"] + each["z"]) * each["step"])

        loop.run(send())
        assert 2 <= client.model.stats.batches < 40


def test_rows_along_another_axis(tmp_path):
    path = make_onnx(
        tmp_path / "axis.onnx", {"x": [3, "batch"]}, [helper.make_node("Add", ["x", "x"], ["y"])], {"y": [3, "batch"]}
    )
    runner = ParallelPredictUtils(path, devices="cpu:0", batch_axes={"x": 1, "y": 1})
    with serving_in_loop(runner, Limits(8)) as (loop, client):

        async def send():
            inputs = [np.random.rand(3, 1 + i % 4).astype(np.float32) for i in range(30)]
            answers = await asyncio.gather(*[client.infer(x=x) for x in inputs])
            for x, outputs in zip(inputs, answers, strict=True):
                assert np.array_equal(outputs["y"], 2 * x)

        loop.run(send())
        assert client.model.max_rows == 8
        assert client.model.stats.batches < 30


def test_an_output_of_fixed_size_is_not_taken_for_rows(tmp_path, caplog):
    path = make_onnx(
        tmp_path / "constant.onnx",
        {"x": ["batch", 3]},
        [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Constant", [], ["c"], value_floats=[1, 2, 3, 4])],
        {"y": ["batch", 3], "c": [4]},
    )
    with serving_in_loop(ParallelPredictUtils(path, devices="cpu:0"), Limits(8)) as (loop, client):

        async def send():
            inputs = [np.full((2, 3), i, np.float32) for i in range(20)]
            for outputs in await asyncio.gather(*[client.infer(x=x) for x in inputs]):
                assert outputs["c"].tolist() == [1, 2, 3, 4]

        loop.run(send())
    assert "the model fixes axis 0 of 'c'" in caplog.text


def test_an_answer_that_cannot_be_delivered_is_nobody_elses(factories, caplog):
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0")
    with serving_in_loop(runner, Limits(8)) as (loop, client):

        async def send():
            def fail(request):
                raise RuntimeError("the handler is closed")

            requests = [InferRequest(["x"], [np.ones((1, 2), np.float32)], fail) for _ in range(3)]
            futures = []
            for request in requests:
                client.model.add(request)
                futures.append(client.send({"x": np.ones((1, 2), np.float32)})[0])
            await asyncio.gather(*futures)

        loop.run(send())
        stats = client.model.stats
        assert (stats.successes, dict(stats.failures)) == (3, {"error": 3})
    assert caplog.text.count("could not be delivered") == 3


def test_a_request_of_too_many_rows_is_refused(factories):
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0")
    with serving_in_loop(runner, Limits(1)) as (loop, client):

        async def send():
            with pytest.raises(TooLargeError, match="100000 rows; the server takes at most 1024"):
                client.send({"x": np.ones((100_000, 1), np.float32)})

        loop.run(send())


def test_a_deadline_that_comes_while_another_is_told_is_kept(factories):
    runner = ParallelPredictUtils(f"{factories}:moody", devices="cpu:0", predict_timeout_s=30)
    with serving_in_loop(runner, Limits(1, timeout_s=30)) as (loop, client):
        hang = {"x": np.full((1, 2), -3, np.float32)}

        async def send():
            told = client.loop.create_future()

            def send_another(request):
                second = client.send(hang, deadline_s=time.monotonic() + 0.3)[0]
                second.add_done_callback(lambda future: told.set_result(future.exception()))

            client.send(hang, deadline_s=time.monotonic() + 20)
            client.model.add(InferRequest(["x"], [hang["x"]], send_another, deadline_s=time.monotonic() + 0.1))
            assert isinstance(await asyncio.wait_for(told, 5), DeadlineError)

        loop.run(send())
        runner.close()


def test_outputs_that_cannot_be_split_end_the_joining(tmp_path, caplog):
    path = make_onnx(
        tmp_path / "sum.onnx",
        {"x": ["batch", 3]},
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        {"y": []},
    )
    with serving_in_loop(ParallelPredictUtils(path, devices="cpu:0"), Limits(8)) as (loop, client):

        async def send():
            inputs = [np.full((2, 3), i, np.float32) for i in range(20)]
            answers = await asyncio.gather(*[client.infer(x=x) for x in inputs])
            for x, outputs in zip(inputs, answers, strict=True):
                assert outputs["y"] == x.sum()

        loop.run(send())
    assert caplog.text.count("are not joined any more") == 1 and "batch_axes" in caplog.text


def test_a_request_above_the_maximum_is_split(factories):
    runner = ParallelPredictUtils(f"{factories}:twice", devices="cpu:0,1")
    with serving_in_loop(runner, Limits(4)) as (loop, client):
        x = np.arange(99, dtype=np.float32).reshape(33, 3)
        assert np.array_equal(loop.run(client.infer(x=x))["y"], 2 * x)
        tasks = sum(worker["tasks"] for worker in runner.stats()["workers"].values())
        assert tasks == 9


def test_deadlines(factories):
    runner = ParallelPredictUtils(f"{factories}:moody", devices="cpu:0", predict_timeout_s=30)
    with serving_in_loop(runner, Limits(1, timeout_s=30)) as (loop, client):

        async def send():
            hanging = client.send({"x": np.full((1, 2), -3, np.float32)}, deadline_s=time.monotonic() + 0.2)[0]
            waiting = client.send({"x": np.ones((1, 2), np.float32)}, deadline_s=time.monotonic() + 0.1)[0]
            behind = client.send({"x": np.ones((1, 2), np.float32)}, deadline_s=time.monotonic() + 0.1)[0]
            for future in (waiting, behind, hanging):
                with pytest.raises(DeadlineError, match="was not answered in time"):
                    await future

        loop.run(send())
        assert client.model.stats.failures["timeout"] == 3
        runner.close()


def test_what_does_not_fit_is_refused(factories, tmp_path):
    path = make_onnx(tmp_path / "m.onnx", {"x": ["batch", 3]}, [helper.make_node("Neg", ["x"], ["y"])], {"y": None})
    with serving_in_loop(ParallelPredictUtils(path, devices="cpu:0"), Limits(4, max_queue=1)) as (loop, client):

        async def send():
            for bad, text in (
                ({"x": np.ones((1, 2), np.float32)}, "has shape"),
                ({"x": np.ones((1, 3))}, "float64"),
                ({"z": np.ones((1, 3), np.float32)}, "'z' unknown"),
                ({"x": np.ones((0, 3), np.float32)}, "0 rows"),
            ):
                with pytest.raises(ShapeError, match=text):
                    client.send(bad)
            first = client.send({"x": np.ones((1, 3), np.float32)})[0]
            with pytest.raises(OverloadedError, match="queue is full"):
                client.send({"x": np.ones((1, 3), np.float32)})
            await first

        loop.run(send())
