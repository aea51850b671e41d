"""predict_async: the runner in programs of asyncio and uvloop, with both kinds of workers."""

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
import time
import weakref

import models
import numpy as np
import pytest
import uvloop

from ascend_parallel import ParallelPredictUtils, RunnerClosedError, ShapeError, UsageError

pytestmark = pytest.mark.timeout(60)

LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@pytest.fixture(params=LOOPS)
def run(request):
    """Runs a coroutine in a new loop, which complains of what another thread does to it."""
    return lambda main: LOOPS[request.param](main, debug=True)


@pytest.fixture(scope="module", params=["processes", "threads"])
def workers(request):
    return request.param


def make(workers, ms_per_row=0.0, **options):
    """Return a runner, not built yet, that is built quickly; its outputs are its inputs."""
    return ParallelPredictUtils(
        "sim",
        engine="simulated",
        devices="simulated:0,1",
        workers=workers,
        engine_options={"ms_per_row": ms_per_row},
        **{"chunk_size": 2, **options},
    )


@pytest.fixture(scope="module")
def linear(workers):
    with ParallelPredictUtils(models.linear(), devices="cpu:0,1", workers=workers, chunk_size=2) as runner:
        yield runner


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def assert_right(x, answer):
    """Check one answer of the linear model, or of a simulated one."""
    (y,) = answer.values() if isinstance(answer, dict) else answer
    if y.shape == x.shape:
        np.testing.assert_array_equal(y, x)
    else:
        np.testing.assert_allclose(y, np.maximum(x @ models.weights(8, 5), 0), atol=1e-5)


async def calls_are_right(runner, seeds):
    """Make calls of all sizes at the same time; each gets its own answer."""
    inputs = [rows(1 + seed % 7, seed) for seed in seeds]
    answers = await asyncio.gather(*[runner.predict_async({"x": x}) for x in inputs])
    for x, answer in zip(inputs, answers, strict=True):
        assert_right(x, answer)
    return len(answers)


# ---- one loop


def test_it_is_predict_for_dicts_and_lists(linear, run):
    async def main():
        x = rows(5)
        as_dict, as_list = await linear.predict_async({"x": x}), await linear.predict_async([x])
        assert list(as_dict) == ["y"] and isinstance(as_list, list)
        np.testing.assert_array_equal(as_dict["y"], linear.predict({"x": x})["y"])
        np.testing.assert_array_equal(as_list[0], as_dict["y"])

    run(main())


def test_many_calls_are_in_flight(linear, run):
    assert run(calls_are_right(linear, range(60))) == 60


def test_the_loop_goes_on_meanwhile(workers, run):
    async def main():
        with make(workers, ms_per_row=200) as runner:
            call = asyncio.ensure_future(calls_are_right(runner, [0]))
            turns = 0
            while not call.done():
                turns += 1
                await asyncio.sleep(0.01)
            return turns

    assert run(main()) > 3


def test_the_loop_itself_receives_the_answers(run):
    """No other thread is woken for them: the background leader stays asleep."""
    with make("processes") as runner:
        leader = runner._backend._leader
        run(calls_are_right(runner, range(3)))  # the builds are over, too
        led = []
        lead = leader._lead_in_background
        leader._lead_in_background = lambda: (led.append(threading.get_ident()), lead())
        run(calls_are_right(runner, range(20)))
        assert not led


def test_wrong_inputs_and_arguments_raise_at_once(linear, run):
    async def main():
        with pytest.raises(ShapeError, match="'x' has shape"):
            await linear.predict_async({"x": np.zeros((2, 9), np.float32)})
        with pytest.raises(ShapeError, match="missing"):
            await linear.predict_async({})
        with pytest.raises(UsageError, match="timeout_s is 0"):
            await linear.predict_async({"x": rows(1)}, timeout_s=0)
        with pytest.raises(UsageError, match="model is 'other'"):
            await linear.predict_async({"x": rows(1)}, model="other")
        await calls_are_right(linear, [1])

    run(main())


def test_a_runner_that_is_not_built_or_is_closed_says_so(workers, run):
    runner = make(workers)

    async def main():
        with pytest.raises(RunnerClosedError, match="not built"):
            await runner.predict_async({"x": rows(1)})
        with runner:
            await calls_are_right(runner, [1])
        with pytest.raises(RunnerClosedError, match="not built"):
            await runner.predict_async({"x": rows(1)})

    run(main())


def test_worker_processes_get_a_copy_of_the_inputs(run):
    async def main():
        with make("processes") as runner:
            x = rows(50)
            wanted = x.copy()
            calls = [asyncio.ensure_future(runner.predict_async({"x": x})) for _ in range(10)]
            await asyncio.sleep(0)
            x[:] = np.nan
            for call in calls:
                assert_right(wanted, await call)

    run(main())


def test_calls_are_in_the_trace(workers, run, tmp_path):
    with make(workers, trace=tmp_path / "trace.json") as runner:
        run(calls_are_right(runner, range(10)))
        calls = runner.trace.calls()
    assert sorted(call.number for call in calls) == list(range(1, 11))
    for call in calls:
        assert call.opened_ns <= call.begun_ns <= call.gather_ns <= call.closed_ns
        assert call.tasks and all(call.begun_ns <= task.started_ns <= task.finished_ns for task in call.tasks)
    assert sum(task.rows for call in calls for task in call.tasks) == sum(1 + seed % 7 for seed in range(10))


def test_the_loop_does_not_keep_the_first_caller_s_context(linear, run):
    """A request's context variables hold its spans, its user, its session: not for as long as the loop lives."""

    class Request:
        pass

    async def main():
        variable = contextvars.ContextVar("request")

        async def serve():
            variable.set(request := Request())
            await calls_are_right(linear, [1])
            return weakref.ref(request)

        request = await asyncio.ensure_future(serve())
        await asyncio.sleep(0)  # now nothing refers to that task any more
        gc.collect()
        return request() is None

    assert run(main())


# ---- several runners, loops and threads


def test_several_runners_in_one_loop(linear, workers, run):
    async def main():
        with make(workers) as one, make(workers, chunk_size=None) as other:
            done = await asyncio.gather(
                calls_are_right(one, range(20)), calls_are_right(other, range(30)), calls_are_right(linear, range(40))
            )
            assert done == [20, 30, 40]
            one.close()
            assert await calls_are_right(other, range(5)) == await calls_are_right(linear, range(5)) == 5

    run(main())


def test_one_runner_in_several_loops_beside_threads(linear):
    """Two loops of asyncio, one of uvloop; threads that predict, submit and map: each gets its own answers."""
    started = threading.Barrier(6)

    def in_a_loop(name, seed):
        async def main():
            started.wait(20)
            for first in range(seed, seed + 80, 8):
                await calls_are_right(linear, range(first, first + 8))

        LOOPS[name](main(), debug=True)

    def in_a_thread(how, seed):
        started.wait(20)
        inputs = [rows(1 + number % 7, number) for number in range(seed, seed + 80)]
        for x, answer in zip(inputs, how(inputs), strict=True):
            assert_right(x, answer)

    def predict(inputs):
        return (linear.predict({"x": x}) for x in inputs)

    def submit(inputs):
        return [future.result(30) for future in [linear.submit({"x": x}) for x in inputs]]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        done = [pool.submit(in_a_loop, *what) for what in (("asyncio", 1000), ("asyncio", 2000), ("uvloop", 3000))]
        done.append(pool.submit(in_a_thread, predict, 4000))
        done.append(pool.submit(in_a_thread, submit, 5000))
        done.append(pool.submit(in_a_thread, lambda inputs: linear.map({"x": x} for x in inputs), 6000))
        for future in done:
            future.result(50)


def test_blocking_calls_in_the_loop_s_own_thread(linear, run):
    """It is not what one should do, but it works: the thread that waits receives the loop's answers, too."""

    async def main():
        call = asyncio.ensure_future(calls_are_right(linear, range(10)))
        await asyncio.sleep(0)
        for seed in range(5):
            x = rows(3, seed)
            assert_right(x, linear.predict({"x": x}))
            assert_right(x, linear.submit({"x": x}).result(20))
        assert len(list(linear.map({"x": rows(2, seed)} for seed in range(20)))) == 20
        assert await call == 10

    run(main())


def test_a_blocked_loop_stops_nobody_else(linear, run):
    """The loop would receive the answers, but sleeps: all other callers get theirs, and its own come afterwards."""

    async def main():
        calls = asyncio.ensure_future(calls_are_right(linear, range(20)))
        await asyncio.sleep(0)
        others = threading.Thread(target=work)
        others.start()
        others.join(20)  # blocks the loop
        assert not others.is_alive()
        return await calls

    def work():
        for seed in range(20):
            x = rows(5, seed)
            assert_right(x, linear.predict({"x": x}))
            assert_right(x, linear.submit({"x": x}).result(20))
        assert len(list(linear.map({"x": rows(2, seed)} for seed in range(50)))) == 50

    assert run(main()) == 20


def test_a_loop_that_moves_to_another_thread(linear):
    """It is stopped in one thread and goes on in another; the first then receives its answers."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.run_until_complete(calls_are_right(linear, range(3)))
    stop = threading.Event()

    async def main():
        done = 0
        while not stop.is_set():
            done += await calls_are_right(linear, range(5))
        return done

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        moved = pool.submit(loop.run_until_complete, main())
        for seed in range(50):
            x = rows(5, seed)
            assert_right(x, linear.predict({"x": x}))
        stop.set()
        assert moved.result(20) > 0
    loop.close()


def test_a_callback_that_takes_long_does_not_make_the_loop_spin(run):
    """It runs in the thread that leads; the pipes stay readable, and the loop must wait without asking all the time."""

    async def main():
        with make("processes") as runner:
            await calls_are_right(runner, range(3))
            backend = runner._backend
            (attached,) = backend._loops.values()
            polls = []
            note_poll = attached.note_poll
            attached.note_poll = lambda was_leader: (polls.append(was_leader), note_poll(was_leader))
            busy, go_on = threading.Event(), threading.Event()
            submitted = runner.submit({"x": rows(200)})
            submitted.add_done_callback(lambda _: (busy.set(), go_on.wait(20)))
            await asyncio.to_thread(busy.wait, 20)
            calls = asyncio.ensure_future(calls_are_right(runner, range(5)))
            polls.clear()
            started_s = time.monotonic()
            await asyncio.sleep(0.2)
            asked, waited_s = len(polls), time.monotonic() - started_s
            go_on.set()
            assert await calls == 5
            return asked, waited_s

    asked, waited_s = run(main())
    assert 1 < asked < 16 + 1100 * waited_s
