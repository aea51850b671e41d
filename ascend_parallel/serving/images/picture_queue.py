"""Which pictures of an image model are drawn at the moment, and which wait for their turn."""

from __future__ import annotations

import asyncio
import math
import time

from ascend_parallel.errors import OverloadedError

from .picture_stats import PictureStats


class PictureQueue:
    """The pictures of one image model, in the order in which they came.

    So many are drawn at the same time that all workers have full batches. With more, all would be complete later, and
    none earlier.
    """

    def __init__(self, max_pictures: int, max_drawing: int, stats: PictureStats) -> None:
        """Take how many pictures may be there, how many of them are drawn, and what counts them."""
        self._max_pictures = max_pictures
        self._turns = asyncio.Semaphore(max_drawing)
        self._stats = stats
        self._last_picture_s = 1.0

    def enter(self, count: int) -> list[Place]:
        """Return a place for each of so many pictures; raises OverloadedError where they are too many."""
        there = self._stats.waiting + self._stats.drawing
        if there + count > self._max_pictures:
            raise OverloadedError(
                f"the queue is full: {there} pictures wait or are being drawn, at most {self._max_pictures} may; try "
                "again later",
                retry_after_s=max(1, math.ceil(self._last_picture_s)),
            )
        return [Place(self._turns, self._stats) for _ in range(count)]

    def note_complete(self, place: Place) -> None:
        """Note that a picture is complete."""
        place.is_complete = True
        self._last_picture_s = time.monotonic() - place.arrived_s
        self._stats.count_picture(self._last_picture_s)


class Place:
    """The place of one picture: it waits, then is drawn, then leaves.

    Attributes:
        arrived_s: ``time.monotonic`` when the picture came.
        is_complete: whether the client has it.
    """

    def __init__(self, turns: asyncio.Semaphore, stats: PictureStats) -> None:
        self._turns = turns
        self._stats = stats
        self.arrived_s = time.monotonic()
        self.is_complete = False
        self._is_waiting = True
        self._is_drawing = False
        stats.waiting += 1

    async def wait_for_turn(self) -> None:
        """Return when the picture is to be drawn."""
        await self._turns.acquire()
        self._is_waiting, self._is_drawing = False, True
        self._stats.waiting -= 1
        self._stats.drawing += 1

    def leave(self) -> None:
        """Make room for the next picture; may be called again."""
        self._stats.waiting -= self._is_waiting
        self._stats.drawing -= self._is_drawing
        if self._is_drawing:
            self._turns.release()
        self._is_waiting = self._is_drawing = False
