"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ascend_parallel.errors import RunnerClosedError, UsageError

Result = TypeVar("Result")
#: How long what was begun may take when the loop is stopped; its requests have failed by then.
_FINISH_S = 1.0


class LoopThread:
    """Runs coroutines, one beside the other."""

    def __init__(self, name: str) -> None:
        """Start the thread; it does not keep the interpreter from ending."""
        self._loop = asyncio.new_event_loop()
        self._closing = threading.RLock()  # a garbage collection in it may close another pipeline, or this one
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    @property
    def is_own(self) -> bool:
        """Whether this is the process that has the thread, and not a fork of it."""
        return self._pid == os.getpid()

    @property
    def is_current(self) -> bool:
        """Whether the caller is in the thread."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Begin a coroutine; return the future of its result, which cancels it. Raises RunnerClosedError if closed."""
        with self._closing:
            if not self._is_closed:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise RunnerClosedError("the pipeline was closed by another thread")

    def run(self, what: str, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end, and return its result.

        An exception that hits the waiting thread, such as KeyboardInterrupt, cancels it. Raises UsageError in a
        future's callback, which would wait for itself; ``what`` is what the user called.
        """
        if self.is_current:
            coroutine.close()
            raise UsageError(f"{what} was called in a future's callback, where it would wait for itself; use submit")
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and the thread, once what was begun before has ended."""
        with self._closing:
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.is_current:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_finish())
        finally:
            self._loop.close()


async def _finish() -> None:
    """Let the coroutines end that were begun just before the loop was stopped: their callers wait for them."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_FINISH_S)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
