"""Slots: the places that a runner holds in the cluster, each with the actor that occupies it now."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from ascend_parallel.backends.worker_spec import RESTART_WINDOW_S

from .pieces import Piece

STARTING, READY, OUT = "starting", "ready", "out"


class Shipment:
    """One bundle that is on its way to a host, computed there, or on its way back.

    Attributes:
        slot: where it went.
        pieces: what it carries.
        references: Ray's references of the answer's objects; empty before it is sent.
        is_direct: the caller of the pieces' call waits for the answer itself; no callback is attached.
        is_open: it has not been answered or given up.
        sent_ns: when it was sent (``perf_counter_ns``).
    """

    __slots__ = ("is_direct", "is_open", "pieces", "references", "sent_ns", "slot")

    def __init__(self, slot: Slot, pieces: list[Piece]) -> None:
        self.slot = slot
        self.pieces = pieces
        self.references: list[Any] = []
        self.is_direct = False
        self.is_open = True
        self.sent_ns = 0

    @property
    def parts(self) -> int:
        """The tasks of all pieces."""
        return sum(piece.parts for piece in self.pieces)

    @property
    def is_suspect(self) -> bool:
        """Whether it carries a piece whose host was lost before: it goes alone, to find the one that is the cause."""
        return self.pieces[0].failures > 0


class Slot:
    """A bundle of resources that Ray reserves for this runner, and the actor in it.

    Attributes:
        devices: how many devices it has.
        capacity: how many tasks it computes at a time: its devices times their instances.
        group: Ray's placement group.
        index: which bundle of the group it is.
        state: STARTING, READY or OUT.
        generation: counts the actors, so that no late event is taken for another's.
        actor: Ray's handle; None if there is none.
        node: the node's id; "" before the first actor was built.
        host: the host's name; "" likewise.
        names: the devices' names on the host -> in the cluster, such as ``{"ascend:0": "node1/ascend:2"}``.
        in_flight: the shipments that it owes an answer to.
        restarts: actors started after the first.
        since_s: when its state began (``time.monotonic``).
        progress_s: when it last answered, or began to owe an answer.
        reason: why its last actor ended.
        is_optional: it can be given up if it gets no devices: the runner wants all that there are, not a number.
    """

    def __init__(self, devices: int, capacity: int, group: Any, index: int, *, is_optional: bool) -> None:
        self.devices = devices
        self.capacity = capacity
        self.group = group
        self.index = index
        self.is_optional = is_optional
        self.state = STARTING
        self.generation = 0
        self.actor: Any = None
        self.node = ""
        self.host = ""
        self.names: dict[str, str] = {}
        self.in_flight: list[Shipment] = []
        self.restarts = 0
        self.since_s = self.progress_s = time.monotonic()
        self.reason = ""
        self._ends_s: deque[float] = deque()
        self._base: dict[str, dict[str, Any]] = {}
        self._latest: dict[str, dict[str, Any]] = {}

    def set_state(self, state: str) -> None:
        """Change the state, and note when."""
        self.state = state
        self.since_s = self.progress_s = time.monotonic()

    @property
    def parts_in_flight(self) -> int:
        """The tasks that it has."""
        return sum(shipment.parts for shipment in self.in_flight)

    def may_restart(self, max_restarts: int) -> bool:
        """Note the end of an actor; return whether the budget allows another."""
        now_s = time.monotonic()
        self._ends_s.append(now_s)
        while self._ends_s[0] < now_s - RESTART_WINDOW_S:
            self._ends_s.popleft()
        return len(self._ends_s) <= max_restarts

    # ---- figures

    def note_stats(self, workers: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the figures of the actor's workers."""
        self._latest = {self.name_worker(label): dict(told) for label, told in workers.items()}

    def end_stats(self) -> None:
        """Keep the last figures of an actor that has ended: the next one counts from 0."""
        for label, told in self._latest.items():
            kept = self._base.setdefault(label, {"tasks": 0, "rows": 0, "busy_s": 0.0})
            for name in kept:
                kept[name] += told[name]
        self._latest = {}

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return the figures of its workers, by label, those of earlier actors included."""
        labels = list(self._latest or self._base) or list(self.names.values())
        return {label: self._stats_of(label) for label in labels}

    def _stats_of(self, label: str) -> dict[str, Any]:
        latest, base = self._latest.get(label, {}), self._base.get(label, {})
        counts = {name: latest.get(name, 0) + base.get(name, 0) for name in ("tasks", "rows", "busy_s")}
        state = latest.get("state", self.state) if self.state == READY else self.state
        restarts = latest.get("restarts", 0) + self.restarts
        return {"state": state, "pid": latest.get("pid"), **counts, "restarts": restarts}

    def name_worker(self, label: str) -> str:
        """Return the name in the cluster of a host's worker, such as ``node1/cpu:0#1``."""
        device, mark, instance = label.partition("#")
        return self.names.get(device, f"{self.host}/{device}") + mark + instance

    def __repr__(self) -> str:
        return f"<Slot {self.host or '?'} {self.state} generation {self.generation}>"
