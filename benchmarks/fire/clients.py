"""Clients that check each answer."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import random
import re
import time

import numpy as np

_LENGTH = re.compile(rb"\ncontent-length: (\d+)")
_JSON_LENGTH = re.compile(rb"inference-header-content-length: (\d+)")
_ids = itertools.count(1)


class Tally:
    """What all clients have seen.

    Attributes:
        answered: requests with the right answer.
        rows: of these.
        refused: connections that were refused.
        lost: requests that were sent on a connection and never answered.
        wrong: what else was not right, in words.
        times_s: how long each request took.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.rows = 0
        self.refused = 0
        self.lost = 0
        self.wrong: list[str] = []
        self.times_s: list[float] = []

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        counts = collections.Counter(self.wrong)
        found = [f"{count} times: {text}" for text, count in counts.most_common(5)]
        return [f"{self.lost} requests were lost", *found] if self.lost else found

    def __str__(self) -> str:
        return f"{self.answered:,} requests answered, {self.lost} lost, {len(self.wrong)} wrong"


class Client:
    """One client, which sends its next request when it has the answer to the one before."""

    def __init__(self, port: int, tally: Tally, *, keeps: bool = True) -> None:
        """Take where to, and whether the connection is kept for the next request."""
        self._port = port
        self._tally = tally
        self._keeps = keeps
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_used = False

    async def run_until(self, end_s: float) -> None:
        """Send requests until then, or until a connection is refused."""
        while time.monotonic() < end_s and await self._ask():
            pass
        await self._close()

    async def run_times(self, count: int) -> None:
        """Send so many requests."""
        for _ in range(count):
            await self._ask()
        await self._close()

    async def _ask(self) -> bool:
        """Send a request and check its answer; return False where the connection is refused."""
        if self._reader is None:
            try:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                self._is_used = False
            except ConnectionRefusedError:
                self._tally.refused += 1
                return False
        assert self._writer is not None
        shape = random.randint(1, 5), random.randint(1, 3)
        x = np.random.default_rng(next(_ids)).integers(1, 1000, shape).astype(np.float32)
        identity = str(next(_ids))
        began_s = time.monotonic()
        self._writer.write(encode(x, identity))
        try:
            head, body = await read_answer(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self._tally.lost += 1
            which = "not the first" if self._is_used else "the first"
            self._tally.wrong.append(f"{type(error).__name__} for {which} request of a connection")
            self._reader = None
            return True
        self._tally.times_s.append(time.monotonic() - began_s)
        self._is_used = True
        self._check(head, body, x, identity)
        if not self._keeps or b"connection: close" in head:
            await self._close()
        return True

    def _check(self, head: bytes, body: bytes, x: np.ndarray, identity: str) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            self._tally.wrong.append(f"{head[9:12].decode()} {body[:200].decode()}")
            return
        found = _JSON_LENGTH.search(head)
        size = int(found[1]) if found else 0
        if json.loads(body[:size])["id"] != identity:
            self._tally.wrong.append("an answer of another request")
        elif not np.array_equal(np.frombuffer(body[size:], np.float32).reshape(x.shape), 2 * x):
            self._tally.wrong.append("an answer with wrong numbers")
        else:
            self._tally.answered += 1
            self._tally.rows += len(x)

    async def _close(self) -> None:
        """Close the connection; nothing may come after the last answer."""
        if self._reader is not None and self._writer is not None:
            try:
                self._writer.write_eof()
                if await self._reader.read():
                    self._tally.wrong.append("more than one answer")
            except OSError:
                pass
            self._writer.close()
        self._reader = self._writer = None


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return (head, body) of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    found = _LENGTH.search(head)
    return head, await reader.readexactly(int(found[1]) if found else 0)


async def ask_on(port: int, model: str, value: float = 1.0) -> int:
    """Send one request on a connection of its own; return its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(encode(np.full((1, 1), value, np.float32), "1", model))
    head, _ = await read_answer(reader)
    writer.close()
    return int(head[9:12])


def encode(x: np.ndarray, identity: str, model: str = "doubles") -> bytes:
    """Return a request in the binary form of the protocol."""
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"id": identity, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + x.nbytes}\r\n\r\n"
    )
    return lines.encode() + text + x.tobytes()
