"""Idle and slow connections, kept by a process of their own so that the load's clients do not pay for them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from .clients import encode

#: A slow client sends a byte so often.
_BYTE_EVERY_S = 1.0


class Crowd:
    """The process; to be used in ``with``."""

    def __init__(self, context: Any, port: int, idle: int, slow: int) -> None:
        """Start it; no connection is made yet."""
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=run, args=(other, port, idle, slow), daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("end")
        self._process.join()

    def gather(self) -> None:
        """Open all connections; returns when they are open, and the slow ones have begun to send."""
        self._tell("gather")

    def scatter(self) -> None:
        """Close them all."""
        self._tell("scatter")

    def _tell(self, word: str) -> None:
        self._pipe.send(word)
        if self._pipe.recv() != word:
            raise RuntimeError("a connection of the crowd was closed by the server")


def run(pipe: Any, port: int, idle: int, slow: int) -> None:
    """Do as told through the pipe."""
    asyncio.run(_run(pipe, port, idle, slow))


async def _run(pipe: Any, port: int, idle: int, slow: int) -> None:
    loop = asyncio.get_running_loop()
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []
    while (word := await loop.run_in_executor(None, pipe.recv)) != "end":
        answer = word if not any(writer.is_closing() for writer in writers) else "closed"
        for task in tasks:
            task.cancel()
        for writer in writers:
            writer.close()
        writers, tasks = [], []
        if word == "gather":
            for _ in range(idle + slow):
                writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
            tasks = [asyncio.ensure_future(_send_slowly(writer)) for writer in writers[:slow]]
        pipe.send(answer)


async def _send_slowly(writer: asyncio.StreamWriter) -> None:
    for byte in encode(np.ones((50, 50), np.float32), "1"):
        writer.write(bytes([byte]))
        await asyncio.sleep(_BYTE_EVERY_S)
