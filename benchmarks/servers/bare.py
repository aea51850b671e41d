"""Bounds: the same scheme as ascend_parallel without its protocol, checks and metrics; and HTTP alone.

A class derived from uvicorn's protocol answers every POST itself. The event loop hears two worker processes. A batch
goes out as soon as a worker is free: the rows that wait, packed straight into that worker's shared memory. No rule of
HTTP that wrk does not need is kept, no error handled, and the shapes are fixed. What `ascend-parallel serve` needs more
is the price of what it does more.
"""

from __future__ import annotations

import asyncio
import collections
import mmap
import os
import socket
import sys
from typing import Any

import numpy as np

from .job import MAX_BATCH_SIZE, WORKERS, Job
from .server import Server

ECHO = "--echo"
DONE = b"\x00"


class Bare(Server):
    """The scheme alone."""

    title = "bare: batches and workers"
    venv = "serve-uvicorn"
    tuning = f"{WORKERS} forked workers, batches of at most {MAX_BATCH_SIZE}, no delay; raw bodies"


class Echo(Bare):
    """HTTP alone: every request gets an answer of the right size at once, and no model runs."""

    title = "bare: HTTP only"
    tuning = "answers at once; raw bodies"

    def command(self, port: int) -> list[str]:
        """Return the command."""
        return [*super().command(port), ECHO]


class Worker:
    """A worker process, and the memory it shares with this one: for each array, room for a whole batch."""

    def __init__(self, job: Job) -> None:
        arrays = {**job.feeds, job.output: job.expected}
        self._arrays = {
            name: np.frombuffer(mmap.mmap(-1, a.nbytes * MAX_BATCH_SIZE), a.dtype).reshape(MAX_BATCH_SIZE, *a.shape)
            for name, a in arrays.items()
        }
        self._inputs = [memoryview(self._arrays[name]).cast("B") for name in job.feeds]
        self._sizes = [array.nbytes for array in job.feeds.values()]
        self._output = memoryview(self._arrays[job.output]).cast("B")
        self._output_size = job.expected.nbytes
        self.clients: list[Any] = []
        self.pipe, theirs = socket.socketpair()
        if os.fork() == 0:
            self.pipe.close()
            self._work(job, theirs)
            os._exit(0)
        theirs.close()
        self.pipe.setblocking(False)

    def send(self, requests: list[tuple[Any, bytes]]) -> None:
        """Copy the inputs of a batch, and wake the worker."""
        self.clients = [client for client, _ in requests]
        offset = 0
        for view, size in zip(self._inputs, self._sizes, strict=True):
            for row, (_, body) in enumerate(requests):
                view[row * size : (row + 1) * size] = body if size == len(body) else body[offset : offset + size]
            offset += size
        self.pipe.send(bytes([len(requests)]))

    def receive(self) -> None:
        """Answer the clients of the batch that is done."""
        self.pipe.recv(1)
        size = self._output_size
        for row, client in enumerate(self.clients):
            if not client.is_closing():
                client.write(answer(self._output[row * size : (row + 1) * size]))

    def _work(self, job: Job, pipe: socket.socket) -> None:
        session = job.open_session()
        while count := pipe.recv(1):
            rows = count[0]
            feeds = {}
            for name, array in job.feeds.items():
                block = self._arrays[name][:rows]
                feeds[name] = block.reshape(rows, *array.shape[1:]) if name in job.batched else block[0]
            self._arrays[job.output][:rows, 0] = session.run(None, feeds)[0]
            pipe.send(DONE)


def answer(output: Any) -> bytes:
    """Return a whole answer."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % output.nbytes + output


class Dispatcher:
    """The requests that wait, and the workers that are free."""

    def __init__(self, job: Job) -> None:
        self._workers = [Worker(job) for _ in range(WORKERS)]
        self._free = collections.deque(self._workers)
        self._waiting: collections.deque[tuple[Any, bytes]] = collections.deque()
        self._is_scheduled = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a loop hear the workers."""
        self._loop = loop
        for worker in self._workers:
            loop.add_reader(worker.pipe.fileno(), self._finish, worker)

    def put(self, client: Any, body: bytes) -> None:
        """Take a request; it goes out after all that the loop has read by now, so that a batch may form."""
        self._waiting.append((client, body))
        if self._free and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_scheduled = False
        while self._free and self._waiting:
            count = min(MAX_BATCH_SIZE, len(self._waiting))
            self._free.popleft().send([self._waiting.popleft() for _ in range(count)])

    def _finish(self, worker: Worker) -> None:
        worker.receive()
        self._free.append(worker)
        self._dispatch()


class Echoer:
    """In place of the dispatcher: answers at once with the expected output."""

    def __init__(self, job: Job) -> None:
        self._answer = answer(memoryview(job.expected).cast("B"))

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Need no loop."""

    def put(self, client: Any, body: bytes) -> None:
        """Answer."""
        client.write(self._answer)


def main() -> None:
    """Serve the job that the arguments name."""
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    job = Job(sys.argv[1])
    dispatcher = Echoer(job) if ECHO in sys.argv else Dispatcher(job)

    class Protocol(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            self._parts: list[bytes] = []

        def on_body(self, body: bytes) -> None:
            self._parts.append(body)

        def on_message_complete(self) -> None:
            dispatcher.put(self.transport, self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (kind := (await receive())["type"]) == "lifespan.startup":
            dispatcher.attach(asyncio.get_running_loop())
            await send({"type": "lifespan.startup.complete"})
        await send({"type": f"{kind}.complete"})

    uvicorn.run(app, http=Protocol, loop="uvloop", port=int(sys.argv[2]), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
