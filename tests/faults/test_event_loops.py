"""predict_async when things go wrong: cancelled, too late, failed, killed, closed under way; with both workers."""

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import signal
import threading
import time

import numpy as np
import pytest
import uvloop

from ascend_parallel import EngineError, ParallelPredictUtils, RunnerClosedError, WorkerDied, WorkerTimeout

from . import acting, procs, runners, thread_models
from .thread_models import ECHO, HANG, RAISE, SLEEP, rows

pytestmark = [pytest.mark.usefixtures("leaves_nothing", "clean"), pytest.mark.timeout(60)]

RUNS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
NEW = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module", autouse=True)
def uvloop_is_ready():
    """Its library opens a pipe for signals once, with the first loop, and keeps it as long as the process lives."""
    uvloop.run(asyncio.sleep(0))


@pytest.fixture
def clean(monkeypatch):
    """Let hanging threads go on at the end of each test."""
    monkeypatch.setattr(thread_models, "go_on", threading.Event())
    monkeypatch.setattr(thread_models, "hangs", threading.Event())
    yield
    thread_models.go_on.set()


@pytest.fixture(params=["processes", "threads"])
def workers(request):
    return request.param


@pytest.fixture(params=RUNS)
def kind(request):
    return request.param


@pytest.fixture
def run(kind):
    """Runs a coroutine in a new loop, which complains of what another thread does to it."""
    return lambda main: RUNS[kind](main, debug=True)


def make(workers, devices="cpu:0,1", **options):
    """Return a runner, not built yet, of the model that does what its rows say (thread_models.py)."""
    module = "faults.thread_models" if workers == "threads" else thread_models.__file__
    return ParallelPredictUtils(f"{module}:make", devices=devices, workers=workers, **{"chunk_size": 1, **options})


async def is_right(runner, mark=7.0):
    x = rows(*[(ECHO, mark + i) for i in range(5)])
    np.testing.assert_array_equal((await runner.predict_async(x))["y"], x["x"])
    return True


def assert_right(runner, mark=3.0):
    x = rows(*[(ECHO, mark + i) for i in range(5)])
    np.testing.assert_array_equal(runner.predict(x)["y"], x["x"])


def start(runner, *commands, **options):
    return asyncio.ensure_future(runner.predict_async(rows(*commands), **options))


def leased(runner):
    return runner.stats()["shared_memory"]["leased_bytes"]


def tasks(runner):
    return sum(worker["tasks"] for worker in runner.stats()["workers"].values())


# ---- cancelled and too late


def test_cancelled_calls_give_up_what_is_queued_and_their_memory(workers, run):
    async def main():
        with make(workers, "cpu:0") as runner:
            assert await is_right(runner)
            gc.collect()
            before, computed = leased(runner), tasks(runner)
            calls = [start(runner, (SLEEP, 0.2), *[(ECHO, mark) for mark in range(1000)]) for _ in range(5)]
            await asyncio.sleep(0)  # all are sent; the first is computed
            assert leased(runner) > before or workers == "threads"
            for call in calls:
                call.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(error) for error in ended] == [asyncio.CancelledError] * 5
            assert await is_right(runner)
            assert tasks(runner) - computed <= 2 + 5  # what the worker had already, and the call after
            calls.clear()
            procs.wait_until(lambda: leased(runner) <= before, "the memory given back")
            assert await is_right(runner)

    run(main())


def test_wait_for(workers, run):
    async def main():
        with make(workers) as runner:
            for mark in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(start(runner, (SLEEP, 0.3)), 0.05)
                assert await is_right(runner, mark)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*[start(runner, (SLEEP, 0.2)) for _ in range(6)]), 0.05)
            assert await is_right(runner)

    run(main())


def test_cancelling_beside_the_answer(workers, run):
    """The answer comes, and the task is cancelled before it goes on, or just as the answer is on its way."""

    async def main():
        with make(workers) as runner:
            for turns in range(200):
                call = start(runner, (ECHO, turns))
                for _ in range(turns % 20):
                    await asyncio.sleep(0)
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert (await call)["y"][0, 1] == turns
                if turns % 20 == 0:
                    assert await is_right(runner, turns)

    run(main())


@pytest.mark.parametrize("own", [False, True], ids=["of the runner", "of the call"])
def test_overdue_calls_fail_in_time_and_alone(workers, run, own):
    async def main():
        with make(workers, **({} if own else {"predict_timeout_s": 0.3})) as runner:
            hang = start(runner, (HANG,), **({"timeout_s": 0.3} if own else {}))
            others = [start(runner, (ECHO, mark)) for mark in range(8)]
            with pytest.raises(WorkerTimeout, match="did not answer in 0.3 s"):
                await hang
            assert [(await other)["y"][0, 1] for other in others] == list(range(8))
            assert await is_right(runner)
            thread_models.go_on.set()

    started_s = time.monotonic()
    run(main())
    assert time.monotonic() - started_s < 20


def test_a_blocked_loop_makes_no_call_look_overdue(workers, run):
    """Four calls of 0.3 s each on one worker; the loop is blocked from the first to after the last."""

    async def main():
        with make(workers, "cpu:0", predict_timeout_s=0.6) as runner:
            calls = [start(runner, (SLEEP, 0.3), (ECHO, mark)) for mark in range(4)]
            await asyncio.sleep(0)
            threading.Event().wait(1.6)
            assert [(await call)["y"][1, 1] for call in calls] == list(range(4))
            if workers == "processes":
                assert runners.restarts(runner) == 0

    run(main())


def test_a_hang_is_cut_though_the_loop_is_blocked(workers, run):
    async def main():
        with make(workers, predict_timeout_s=0.3) as runner:
            hang = start(runner, (HANG,))
            await asyncio.sleep(0)
            if workers == "processes":
                procs.wait_until(lambda: runners.restarts(runner), "the worker replaced")
            else:
                procs.wait_until(lambda: "out" in runners.states(runner), "the instance lost")
            with pytest.raises(WorkerTimeout):
                await asyncio.wait_for(hang, 5)
            thread_models.go_on.set()

    run(main())


# ---- failed and killed


def test_engine_errors_reach_their_caller_alone(workers, run):
    async def main():
        with make(workers) as runner:
            calls = [start(runner, (ECHO, 1), (RAISE if mark % 2 else ECHO, mark)) for mark in range(20)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            for mark, found in enumerate(ended):
                if mark % 2:
                    assert isinstance(found, EngineError) and f"told to raise {mark}" in str(found)
                    assert "thread_models.py" in found.remote_traceback
                else:
                    assert found["y"][1, 1] == mark
            assert await is_right(runner)

    run(main())


def test_failed_calls_hold_no_memory(workers, run):
    """Without the garbage collector's help: no cycle of error, frame and future."""

    async def main(runner):
        for mark in range(30):
            x = np.zeros((2, 4096))
            x[0, :2] = RAISE, mark
            with contextlib.suppress(EngineError):
                await runner.predict_async({"x": x})
            with contextlib.suppress(EngineError):
                await asyncio.wrap_future(runner.submit({"x": x}))

    with make("processes", chunk_size=2) as runner:
        gc.collect()
        gc.disable()
        try:
            run(main(runner))
            held = leased(runner)
        finally:
            gc.enable()
        assert held <= 2 * (64 << 10)


def test_a_worker_s_death_reaches_its_caller(run):
    async def main():
        with runners.acting_runner("cpu:0,1", max_retries=0, chunk_size=1) as runner:
            first = asyncio.ensure_future(runner.predict_async({"x": acting.rows((acting.SLEEP, 0.1), (acting.KILL,))}))
            others = [runner.predict_async({"x": acting.rows((acting.ECHO, 0, mark))}) for mark in range(6)]
            with pytest.raises(WorkerDied, match="died during a predict .SIGKILL"):
                await first
            assert [answer["y"][0, 2] for answer in await asyncio.gather(*others)] == list(range(6))
            runners.wait_ready(runner)

    run(main())


def test_a_worker_that_is_killed_is_replaced_and_its_calls_are_tried_again(run):
    """While nobody but the loop waits: it receives what the new worker says, too."""

    async def main():
        with make("processes", "cpu:0") as runner:
            for mark in range(2):
                pid = runners.pids(runner)[0]
                calls = [start(runner, (SLEEP, 0.1), (ECHO, mark * 10 + i)) for i in range(3)]
                await asyncio.sleep(0)
                os.kill(pid, signal.SIGKILL)
                answers = await asyncio.wait_for(asyncio.gather(*calls), 20)
                assert [answer["y"][1, 1] for answer in answers] == [mark * 10 + i for i in range(3)]
                assert runners.restarts(runner) == mark + 1

    run(main())


def test_the_last_device_lost(run):
    async def main():
        with make("processes", "cpu:0", max_restarts=0, max_retries=5) as runner:
            calls = [start(runner, (SLEEP, 5)) for _ in range(3)]
            await asyncio.sleep(0)
            os.kill(runners.pids(runner)[0], signal.SIGKILL)
            for call in calls:
                with pytest.raises(Exception, match="no device is left"):
                    await asyncio.wait_for(call, 10)
            with pytest.raises(Exception, match="no device is left"):
                await is_right(runner)

    run(main())


# ---- the loop ends under way


def test_a_loop_that_ends_with_calls_in_flight(workers, run):
    """asyncio.run cancels them; uvloop's likewise."""

    async def main(runner):
        assert await is_right(runner)
        calls = [start(runner, (SLEEP, 0.1), (ECHO, mark)) for mark in range(10)]
        await asyncio.sleep(0.01)
        return calls

    with make(workers) as runner:
        run(is_right(runner))
        before = procs.open_fds()
        for mark in range(3):
            calls = run(main(runner))
            assert all(call.cancelled() for call in calls)
            assert_right(runner, mark)
            assert runner.submit(rows((ECHO, mark))).result(20)["y"][0, 1] == mark
        del calls
        gc.collect()
        procs.wait_until(lambda: leased(runner) == 0, "the memory given back")
        procs.wait_until(lambda: procs.open_fds() <= before, "the descriptors closed")


def test_a_loop_that_is_closed_without_a_word(workers, kind, caplog):
    """Its calls are neither cancelled nor awaited; they run on, and their answers go nowhere."""
    with make(workers) as runner:
        for mark in range(3):
            loop = NEW[kind]()
            task = loop.create_task(runner.predict_async(rows((SLEEP, 0.1), (ECHO, mark))))
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()
            assert_right(runner, mark)
            task._log_destroy_pending = False  # it is the caller's fault, and asyncio would say so
            del task
        del loop
        gc.collect()
        procs.wait_until(lambda: leased(runner) == 0, "the memory given back")
        assert not caplog.records


def test_a_loop_that_stops_and_goes_on(workers, kind):
    """What came while it did not run is there when it runs again."""
    loop = NEW[kind]()
    loop.set_debug(True)
    with make(workers) as runner:
        calls = [loop.create_task(runner.predict_async(rows((SLEEP, 0.02), (ECHO, mark)))) for mark in range(6)]
        loop.run_until_complete(asyncio.sleep(0))
        for mark in range(3):
            assert_right(runner, mark)
        procs.wait_until(lambda: tasks(runner) >= 12 + 15, "all computed, with nobody to listen")
        answers = loop.run_until_complete(asyncio.gather(*calls))
        assert [answer["y"][1, 1] for answer in answers] == list(range(6))
        loop.run_until_complete(is_right(runner))
    loop.close()


def test_many_loops_one_after_the_other(workers, run):
    with make(workers) as runner:
        run(is_right(runner))
        _wait_forgotten(runner)
        before = procs.open_fds()
        for mark in range(20):
            run(is_right(runner, mark))
            assert len(runner._backend._loops) == 1
        _wait_forgotten(runner)
        assert procs.open_fds() <= before


def _wait_forgotten(runner):
    """The supervisor of processes looks after closed loops; threads have no descriptor to give back."""
    if runner._workers == "processes":
        procs.wait_until(lambda: not runner._backend._loops, "the closed loop forgotten")
    gc.collect()


# ---- the runner ends under way


@pytest.mark.parametrize("where", ["in the loop", "in another thread", "in a task"])
def test_closing_with_calls_in_flight(workers, run, where):
    async def main():
        runner = make(workers)
        runner.build_model()
        calls = [start(runner, (SLEEP, 0.3), (ECHO, mark)) for mark in range(6)]
        await asyncio.sleep(0)
        if where == "in the loop":
            runner.close()
        elif where == "in a task":
            await asyncio.ensure_future(_close(runner))
        else:
            await asyncio.to_thread(runner.close)
        for call in calls:
            with pytest.raises(RunnerClosedError, match="closed while this call was under way"):
                await asyncio.wait_for(call, 10)
        with pytest.raises(RunnerClosedError):
            await is_right(runner)
        runner.build_model()  # and it can be built again, in the same loop
        assert await is_right(runner)
        runner.close()

    run(main())


async def _close(runner):
    runner.close()


def test_closing_while_loops_call(workers, kind, caplog):
    """Each call is answered or told that the runner is closed, whatever it was about; nothing is logged."""

    for _ in range(4):
        runner = runners.simulated() if workers == "processes" else make(workers)
        runner.build_model()
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            loops = [pool.submit(RUNS[kind], _call_until_closed(runner)) for _ in range(3)]
            time.sleep(0.02)  # nobody is to be waited for: the moment is to be any
            runner.close()
            for loop in loops:
                loop.result(20)
    gc.collect()
    assert not caplog.records


async def _call_until_closed(runner):
    async def call():
        with contextlib.suppress(RunnerClosedError):
            while True:
                await runner.predict_async({"x": np.zeros((4, 2))})

    await asyncio.gather(*[call() for _ in range(3)])


def test_attaching_while_closing(workers, kind):
    """A loop's first call comes while another thread closes the runner."""
    for _ in range(5):
        runner = runners.simulated("simulated:0") if workers == "processes" else make(workers, "cpu:0")
        runner.build_model()
        first = threading.Barrier(4)

        async def main(runner=runner, first=first):
            first.wait(20)
            await _call_until_closed(runner)

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            loops = [pool.submit(RUNS[kind], main()) for _ in range(3)]
            first.wait(20)
            runner.close()
            for loop in loops:
                loop.result(20)


def test_closing_in_the_handler_of_a_signal_while_the_loop_sleeps(workers):
    """The loop waits in its selector, which goes on to wait after the handler: its calls must be told."""

    async def main(runner):
        call = start(runner, (SLEEP, 1.0))
        await asyncio.sleep(0)
        timer = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        timer.start()
        try:
            with pytest.raises(RunnerClosedError):
                await call
        finally:
            timer.join()

    runner = make(workers)
    runner.build_model()
    usual = signal.signal(signal.SIGUSR1, lambda *_: runner.close())
    try:
        started_s = time.monotonic()
        asyncio.run(asyncio.wait_for(main(runner), 30))
        assert time.monotonic() - started_s < 20
    finally:
        signal.signal(signal.SIGUSR1, usual)
        runner.close()


# ---- Ctrl-C


def test_ctrl_c(workers, run):
    """asyncio cancels the main task, and then raises KeyboardInterrupt."""

    async def main(runner):
        assert await is_right(runner)
        calls = [start(runner, (SLEEP, 0.2)) for _ in range(4)]
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        await asyncio.gather(*calls)

    with make(workers) as runner:
        for mark in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(main(runner))
            assert_right(runner, mark)
            assert run(is_right(runner, mark))
        if workers == "processes":
            assert runners.restarts(runner) == 0


def test_ctrl_c_that_hits_the_loop_s_callback_is_not_lost(workers, kind, monkeypatch):
    """As without asyncio.run's own handler: it comes out of the loop, and no call is left that nobody answers."""
    loop = NEW[kind]()
    with make(workers) as runner:
        loop.run_until_complete(is_right(runner))
        hit = threading.Event()
        from ascend_parallel.backends.call import Call

        outputs = Call.outputs

        def interrupted(call):
            if not hit.is_set():
                hit.set()
                raise KeyboardInterrupt
            return outputs(call)

        monkeypatch.setattr(Call, "outputs", interrupted)
        call = loop.create_task(runner.predict_async(rows((ECHO, 1))))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(call)
        if workers == "processes":
            loop.run_until_complete(asyncio.wait_for(call, 10))
        else:
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(call)
        assert loop.run_until_complete(is_right(runner))
    loop.close()
