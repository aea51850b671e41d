"""The calls of an event loop: its callers are told in the order in which the workers replied."""

import asyncio
import threading

import pytest

from ascend_parallel.backends.event_loop import EventLoop


class Done:
    """Stands for a call: notes when its caller is told."""

    def __init__(self, name, told, on_done=None):
        self.name = name
        self.told = told
        self._then = on_done

    def on_done(self, call):
        assert call is self
        self.told.append(self.name)
        if self._then is not None:
            self._then()


def run_in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def poll(loop):
    """Deliver as the loop does while it polls."""
    loop.polling_thread = threading.get_ident()
    try:
        loop.deliver()
    finally:
        loop.polling_thread = None


def test_a_reply_that_the_loop_received_does_not_overtake_one_of_another_thread():
    told = []

    async def receive():
        loop = EventLoop(asyncio.get_running_loop())
        loop.put(Done("first", told))
        run_in_thread(loop.deliver)  # it waits until the loop turns
        assert told == []
        loop.put(Done("second", told))
        poll(loop)
        assert told == ["first", "second"]
        await asyncio.sleep(0)
        assert told == ["first", "second"]

    asyncio.run(receive())


def test_a_call_that_completes_while_another_is_told_comes_after_it():
    told = []

    async def receive():
        loop = EventLoop(asyncio.get_running_loop())

        def complete_another():
            loop.put(Done("second", told))
            loop.deliver()
            told.append("first is over")

        loop.put(Done("first", told, complete_another))
        poll(loop)
        assert told == ["first", "first is over", "second"]

    asyncio.run(receive())


@pytest.mark.parametrize(("error", "times"), [(ValueError, 1), (KeyboardInterrupt, 2)])
def test_a_caller_that_fails_keeps_nobody_waiting(error, times):
    """An interrupt may hit before the caller has taken anything: it is told again."""
    told = []

    async def receive():
        loop = EventLoop(asyncio.get_running_loop())

        def fail_once():
            if told.count("first") == 1:
                raise error

        loop.put(Done("first", told, fail_once))
        loop.put(Done("second", told))
        with pytest.raises(error):
            poll(loop)
        await asyncio.sleep(0.0)
        assert told == ["first"] * times + ["second"]

    asyncio.run(receive())
