"""Pictures as OpenAI's protocol has them: all of a request in one JSON object, or one after the other as events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ascend_parallel.serving.error_text import status_of
from ascend_parallel.serving.images.generation_request import GenerationRequest
from ascend_parallel.serving.images.image_model import Generation, ImageModel
from ascend_parallel.serving.images.picture import Pixels, Preview, to_png
from ascend_parallel.serving.log import logger

from .client_watch import ClientGoneError, until_disconnected
from .openai_errors import describe_error

#: Proxies close connections on which nothing comes for a minute.
_KEEP_ALIVE_S = 15.0
#: Events that a client has not taken, above which it gets no partial pictures and no progress.
_MAX_UNSENT = 16


class PictureList:
    """The pictures of a request, until all are complete."""

    def __init__(self, generation: Generation, keep: Callable[[bytes], str] | None) -> None:
        """Take what is drawn, and what keeps a picture and returns its URL; None where pictures go into the answer."""
        self._generation = generation
        self._keep = keep
        self._data: dict[int, dict[str, Any]] = {}

    async def take_step(self, index: int, step: int, preview: Preview) -> None:
        """Take no step: the client waits for the pictures."""

    async def take_picture(self, index: int, pixels: Pixels) -> None:
        """Take a picture that is complete."""
        if self._keep:
            answer = {"url": self._keep(await asyncio.to_thread(to_png, pixels))}
        else:
            answer = {"b64_json": await asyncio.to_thread(_to_base64_png, pixels)}
        self._data[index] = {**answer, "seed": self._generation.jobs[index].seed}

    def describe(self) -> dict[str, Any]:
        """Return the answer, with the pictures in order."""
        return {
            "created": int(time.time()),
            "data": [self._data[index] for index in sorted(self._data)],
            "background": "opaque",
            "output_format": "png",
            "size": self._generation.size,
            "usage": _describe_usage(self._generation.tokens),
        }


def _describe_usage(tokens: int) -> dict[str, Any]:
    """Return OpenAI's account of a request: the tokens of its prompt; pictures here have none."""
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": 0,
        "total_tokens": tokens,
    }


def _to_base64_png(pixels: Pixels) -> str:
    """Return a picture as JSON has it; called in another thread."""
    return base64.b64encode(to_png(pixels)).decode()


class PictureEvents(Response):
    """A response of server-sent events: partial pictures, and each picture when it is complete.

    What fails before the first event has its own status; what fails later is the last event. A picture does not wait
    for a client that takes its events slowly: such a client gets fewer partial pictures.
    """

    def __init__(self, model: ImageModel, generation: Generation, request: GenerationRequest) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._model = model
        self._generation = generation
        self._shown_steps = _choose_steps(generation.steps, request.partial_images or 0)
        self._tells_progress = bool(request.progress)
        self._partial_counts = [0] * len(generation.jobs)
        self._events: asyncio.Queue[str | None] = asyncio.Queue()  # not sent yet; None is the end
        self._has_begun = False  # there was an event: the status is 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Draw the pictures, and send events until they are complete, or the client is gone."""
        with contextlib.suppress(ClientGoneError):
            await until_disconnected(receive, self._draw_and_send(send))

    async def _draw_and_send(self, send: Send) -> None:
        helpers = [asyncio.ensure_future(self._send_events(send)), asyncio.ensure_future(self._keep_alive())]
        try:
            await self._draw()
            self._events.put_nowait(None)
            await helpers[0]
        finally:
            for helper in helpers:
                helper.cancel()

    async def _draw(self) -> None:
        try:
            await self._model.draw(self._generation, self)
        except Exception as error:
            if not self._has_begun:
                raise
            status = status_of(error)
            if status == 500:
                logger.error("a stream of pictures failed", exc_info=error)
            self._put_event("error", {"type": "error", **describe_error(error, status)})

    # ---- pictures

    async def take_step(self, index: int, step: int, preview: Preview) -> None:
        """Send a partial picture if this step is one of those that are shown, else the progress if it is wanted."""
        if self._events.qsize() >= _MAX_UNSENT:
            return
        steps = {"index": index, "step": step, "steps": self._generation.steps}
        if step in self._shown_steps:
            pixels = await preview()
            partial = {"partial_image_index": self._partial_counts[index], **steps}
            self._partial_counts[index] += 1
            await self._put_picture("image_generation.partial_image", index, pixels, partial)
        elif self._tells_progress:
            self._put_event("image_generation.progress", {"type": "image_generation.progress", **steps})

    async def take_picture(self, index: int, pixels: Pixels) -> None:
        """Send a picture that is complete."""
        more = {"index": index, "usage": _describe_usage(self._generation.tokens)}
        await self._put_picture("image_generation.completed", index, pixels, more)

    async def _put_picture(self, kind: str, index: int, pixels: Pixels, more: dict[str, Any]) -> None:
        event = {
            "type": kind,
            "b64_json": await asyncio.to_thread(_to_base64_png, pixels),
            "created_at": int(time.time()),
            "size": self._generation.size,
            "quality": "auto",
            "background": "opaque",
            "output_format": "png",
            "seed": self._generation.jobs[index].seed,
            **more,
        }
        self._put_event(kind, event)

    # ---- events

    def _put_event(self, kind: str, data: dict[str, Any]) -> None:
        self._put(f"event: {kind}\ndata: {json.dumps(data)}\n\n")

    def _put(self, text: str) -> None:
        self._has_begun = True
        self._events.put_nowait(text)

    async def _keep_alive(self) -> None:
        """Send a comment now and then."""
        while True:
            await asyncio.sleep(_KEEP_ALIVE_S)
            if self._events.empty():
                self._put(": drawing\n\n")

    async def _send_events(self, send: Send) -> None:
        """Send events as they come; the response begins with the first of them."""
        text = await self._events.get()
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while text is not None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            text = await self._events.get()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _choose_steps(steps: int, count: int) -> frozenset[int]:
    """Return the steps after which a partial picture is sent: evenly over the time, and none after the last."""
    count = min(count, steps - 1)
    return frozenset(steps * (i + 1) // (count + 1) for i in range(count))
