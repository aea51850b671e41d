"""A server of the OCR pipeline: its requests and what its answers say."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Sequence  # noqa: UP035 (Python 3.8)

import numpy as np
from servers.server import Server, ServerError

from .job import OcrJob

if TYPE_CHECKING:  # it is for this Python, and this file for Python 3.8, too
    from servers.process import RunningServer

REQUEST_TIMEOUT_S = 30.0


class OcrServer(Server):
    """A server that is sent pages. A subclass per server, each in a file of its own."""

    job: OcrJob

    def body(self) -> bytes:
        """Return the body of a request."""
        return self.body_of(self.job.pages[-1])

    def body_of(self, page: np.ndarray) -> bytes:
        """Return the body with a page; by default its bytes."""
        return page.tobytes()

    def texts(self, headers: dict[str, str], body: bytes) -> Sequence[str]:
        """Return the texts that an answer holds; ``headers`` have names in lower case."""
        raise NotImplementedError

    def check(self, headers: dict[str, str], body: bytes) -> None:
        """Check the answer to :meth:`body`; raises ServerError."""
        self.check_page(len(self.job.pages) - 1, headers, body)

    def check_page(self, number: int, headers: dict[str, str], body: bytes) -> None:
        """Check that an answer holds exactly the texts of a page; raises ServerError."""
        try:
            texts = sorted(self.texts(headers, body))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ServerError(f"{self.title} answered {body[:200]!r}: {error!r}") from error
        if texts != self.job.texts[number]:
            raise ServerError(f"{self.title} read {texts} on page {number}, which says {self.job.texts[number]}")


def check_all(running: RunningServer, clients: int, rounds: int) -> int:
    """Send every page several times, by many clients at once; check each answer. Return how many there were.

    Raises:
        ServerError: an answer is wrong, or missing.
    """
    server = running.server
    assert isinstance(server, OcrServer)
    numbers = list(range(len(server.job.pages))) * rounds

    def ask(first: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=REQUEST_TIMEOUT_S)
        own = numbers[first::clients]
        for number in own:
            path = server.path.replace("NAME", server.job.name)
            connection.request("POST", path, server.body_of(server.job.pages[number]), server.headers())
            response = connection.getresponse()
            body = response.read()
            if response.status != http.client.OK:
                raise ServerError(f"{server.title} answered {response.status}: {body[:300]!r}")
            server.check_page(number, {name.lower(): value for name, value in response.getheaders()}, body)
        connection.close()
        return len(own)

    with ThreadPoolExecutor(clients) as threads:
        try:
            return sum(threads.map(ask, range(clients)))
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{server.title} did not answer: {error!r}") from error
