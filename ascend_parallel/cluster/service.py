"""The service thread of a cluster backend: it takes the answers that no caller waits for, and it watches the hosts.

Everything that happens to hosts comes to one inbox: an actor has built its models, an actor has ended, an answer came.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from ascend_parallel.backends.unhandled import report_exception
from ascend_parallel.errors import AscendParallelError, UsageError, WorkerDied, WorkerError, WorkerTimeout
from ascend_parallel.waiting import SIGNAL_LATENCY_S

from .hosts import Demand, Hosts, closed_early, no_host_left, report
from .messages import decode_error
from .pieces import Piece
from .settings import HostSpec
from .slots import OUT, READY, STARTING, Shipment, Slot

if TYPE_CHECKING:
    from .backend import ClusterBackend

#: How often it looks at the nodes: Ray makes no event public that tells of a node that joins.
WATCH_INTERVAL_S = 1.0
#: A host answers so much later than its tasks may take, at most, before it is taken for stuck and ended.
ANSWER_GRACE_S = 10.0
#: How many answers it takes before it sends: hosts that answer at the same time get more together.
_MAX_ANSWERS = 64


class Service:
    """Watches the hosts of a backend.

    Attributes:
        hosts: the slots and their actors; used by the thread that starts, and then by this thread only.
        thread: the thread.
    """

    def __init__(self, backend: ClusterBackend, demand: Demand, spec: HostSpec) -> None:
        """Prepare; nothing is started."""
        self._backend = backend
        self._demand = demand
        self.hosts = Hosts(demand, spec, self._post)
        self.thread = threading.Thread(target=self._serve, name="ascend-parallel cluster", daemon=True)
        self._inbox: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._next_look_s = 0.0

    # ---- life

    def start(self) -> None:
        """Reserve the devices, build the models on all hosts at the same time, and start the thread.

        Raises the first failure.
        """
        self.hosts.reserve_first()
        deadline_s = monotonic() + self._demand.build_timeout_s
        while any(slot.state == STARTING for slot in self.hosts.slots):
            try:
                event = self._inbox.get(timeout=min(SIGNAL_LATENCY_S, max(0.0, deadline_s - monotonic())))
            except Empty:
                if self.hosts.give_up_late() and not self.hosts.slots:
                    raise WorkerDied(
                        "the devices that were free are not there any more; build the runner again"
                    ) from None
                if monotonic() >= deadline_s:
                    raise self._not_built() from None
                continue
            if event is None:
                self.hosts.close()  # again: what has been reserved since
                raise closed_early()
            self._take_first(*event)
        self._backend.note_capacities()
        self.thread.start()

    def _take_first(self, kind: str, slot: Slot, generation: int, done: Any) -> None:
        if generation != slot.generation:
            return
        if kind != "built":
            raise WorkerDied(f"host {slot.host} was lost while others were still building: {reason_of(done)}")
        if slot.is_optional and done.exception() is not None and len(self.hosts.slots) > 1:
            report(f"a host was lost while it built the models: {reason_of(done)}")
            self.hosts.give_up(slot, reason_of(done))
            return
        told = self._told(slot, done)
        self._backend.descriptions, self._backend.manifest_axes = told["descriptions"], told["manifest_axes"]
        self.hosts.accept(slot, told)

    def _told(self, slot: Slot, done: Any) -> dict[str, Any]:
        """Return what an actor says that has built its models; raise why it could not."""
        name = slot.host or f"{self.hosts.slots.index(slot) + 1} of {len(self.hosts.slots)}"
        if done.exception() is not None:
            raise WorkerDied(f"host {name} was lost while it built the models: {reason_of(done)}")
        told: dict[str, Any] = done.result()
        if "error" in told:
            raise decode_error(told["error"], told["host"], "")
        return told

    def _not_built(self) -> WorkerTimeout:
        waiting = sum(slot.state == STARTING for slot in self.hosts.slots)
        return WorkerTimeout(
            f"{waiting} of {len(self.hosts.slots)} hosts did not build the models in {self._demand.build_timeout_s:g} "
            "s; if they need longer, raise build_timeout_s; `ray status` shows what the cluster waits for"
        )

    def stop(self) -> None:
        """End the thread, all actors, and the reservations."""
        self._inbox.put(None)
        if self.thread.is_alive() and not self.is_current():
            self.thread.join()
        self.hosts.close()

    def is_current(self) -> bool:
        """Whether the calling thread is this one."""
        return self.thread is threading.current_thread()

    # ---- the inbox

    def _post(self, kind: str, slot: Slot, generation: int, done: Any) -> None:
        self._inbox.put((kind, slot, generation, done))

    def expect(self, shipment: Shipment) -> None:
        """Have the answer to a shipment come to the inbox."""
        future = shipment.references[0].future()
        future.add_done_callback(lambda done: self._inbox.put(("answer", shipment, done)))

    def replace(self, slot: Slot, reason: str) -> None:
        """Have the actor of a slot replaced that can compute nothing any more."""
        self._post("broken", slot, slot.generation, reason)

    # ---- the thread

    def _serve(self) -> None:
        while not self._backend.is_closing:
            try:
                if monotonic() >= self._next_look_s:
                    self._look_around()
                self._serve_once()
            except Exception as error:
                if self._backend.is_closing or self._has_left(error):
                    return
                report_exception()

    def _has_left(self, error: Exception) -> bool:
        """Fail all calls if the program has left the cluster."""
        import ray

        if ray.is_initialized():
            return False
        self._backend.end_calls(WorkerError(f"the connection to the Ray cluster is closed ({reason_of(error)})"))
        return True

    def _serve_once(self) -> None:
        """Take the events that are there; answers that came at the same time are acted on together."""
        answers: list[tuple[Shipment, Any]] = []
        try:
            event = self._inbox.get(timeout=max(0.0, self._next_look_s - monotonic()))
            while event is not None:
                self._act_on(event, answers)
                if len(answers) >= _MAX_ANSWERS:
                    break
                event = self._inbox.get_nowait()
        except Empty:
            pass
        if answers:
            self._backend.take_answers(answers)

    def _act_on(self, event: tuple[Any, ...], answers: list[tuple[Shipment, Any]]) -> None:
        kind, *rest = event
        if kind == "answer":
            shipment, done = rest
            if done.exception() is None:
                answers.append((shipment, [done.result(), *_rest_of(shipment)]))
            elif shipment.is_open:
                self._lose(shipment.slot, reason_of(done))
        elif rest[1] == rest[0].generation and not self._backend.is_closing:
            self._act_on_host(kind, rest[0], rest[2])

    def _act_on_host(self, kind: str, slot: Slot, done: Any) -> None:
        if kind == "gone":
            self._lose(slot, "its node is gone" if done is None else reason_of(done))
        elif kind == "broken":
            self._lose(slot, done, guilty=[])
        elif kind == "built" and slot.state == STARTING:
            self._accept(slot, done)

    # ---- hosts

    def _accept(self, slot: Slot, done: Any) -> None:
        """Take a host that has built its models, or start it again."""
        try:
            self.hosts.accept(slot, self._told(slot, done))
        except AscendParallelError as error:
            if slot.is_optional and not slot.node and isinstance(error, UsageError):
                report(f"a host that joined cannot be used: {error}")
                self.hosts.give_up(slot, str(error))
            else:
                self.hosts.restart(slot, str(error), counts=not _is_node_loss(str(error)))
            self._check_left()
            return
        report(f"host {slot.host} {'is back' if slot.restarts else 'has joined'}")
        self._backend.note_capacities()
        self._backend.dispatch()

    def _lose(self, slot: Slot, reason: str, *, guilty: Sequence[Piece] | None = None) -> None:
        """Send the pieces of a host that is lost to others, and start it again.

        Args:
            slot: the host.
            reason: why it is lost.
            guilty: the pieces that may be the cause; None: all that it had.
        """
        if slot.state != READY:
            return
        report(f"host {slot.host} is lost: {reason}")
        backend = self._backend
        with backend.lock:
            slot.set_state(STARTING)
            slot.end_stats()
            shipments, slot.in_flight = slot.in_flight, []
            for shipment in shipments:
                shipment.is_open = False
            pieces = [piece for shipment in shipments for piece in shipment.pieces if piece.call.is_open]
            for piece in pieces if guilty is None else guilty:
                piece.failures += 1
            backend.note_capacities()
        self._give_up_pieces(pieces, slot, reason)
        with backend.lock:
            backend.scheduler.put_back([piece for piece in pieces if piece.call.is_open])
        self.hosts.restart(slot, reason, counts=not _is_node_loss(reason))
        self._check_left()
        backend.dispatch()

    def _give_up_pieces(self, pieces: Sequence[Piece], slot: Slot, reason: str) -> None:
        """Fail the calls of pieces that were sent to hosts too often."""
        for piece in pieces:
            own = piece.call.max_retries
            max_retries = self._backend.max_retries if own is None else own
            if piece.failures > max_retries:
                error = WorkerDied(
                    f"{piece.failures} hosts were lost while they computed a task, the last: {slot.host} ({reason}); "
                    f"max_retries is {max_retries}",
                    device=next(iter(slot.names.values()), ""),
                )
                self._backend.fail_calls([piece.call], error)

    def _look_around(self) -> None:
        """See which hosts came, went, or are stuck."""
        self._next_look_s = monotonic() + WATCH_INTERVAL_S
        with self._backend.lock:
            self._backend.release_direct()
        for slot in self.hosts.slots:
            if slot.state == READY:
                self._end_if_stuck(slot)
        if self.hosts.look_around():
            self._check_left()

    def _end_if_stuck(self, slot: Slot) -> None:
        """End a host whose oldest bundle should have been answered long ago; a piece alone in it has failed."""
        with self._backend.lock:
            if not slot.in_flight:
                slot.progress_s = monotonic()
                return
            oldest = slot.in_flight[0]
        timeouts = [piece.call.timeout_s or self._backend.predict_timeout_s for piece in oldest.pieces]
        limit_s = -(-oldest.parts // slot.capacity) * max(timeouts)
        if monotonic() - slot.progress_s <= limit_s + ANSWER_GRACE_S:
            return
        reason = f"it did not answer in {limit_s:g} s"
        if len(oldest.pieces) == 1:
            text = (
                f"host {slot.host} did not answer in {limit_s:g} s and was ended; if a predict may take longer, raise "
            )
            self._backend.fail_calls([oldest.pieces[0].call], WorkerTimeout(f"{text}predict_timeout_s"))
        self._lose(slot, reason, guilty=oldest.pieces)

    def _check_left(self) -> None:
        """Fail all calls if no host is left."""
        slots = self.hosts.slots
        if not self._backend.is_closing and all(slot.state == OUT for slot in slots):
            self._backend.end_calls(no_host_left(slots))


def _rest_of(shipment: Shipment) -> list[Any]:
    """Return the other objects of an answer of which the first has come: they came with it."""
    import ray

    rest: list[Any] = ray.get(shipment.references[1:]) if len(shipment.references) > 1 else []
    return rest


def reason_of(done: Any) -> str:
    """Return why an actor ended, in one line: the causes among what Ray says, without ids and advice."""
    error = done if isinstance(done, BaseException) else done.exception()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = " ".join(line for line in lines if not line.split(":")[0].isidentifier())
    sentences = re.split(r"(?<=\.)\s+", told)
    causes = [sentence for sentence in sentences if "because" in sentence or "exit detail" in sentence]
    return " ".join(causes or sentences[:2]) or type(error).__name__


def _is_node_loss(reason: str) -> bool:
    return re.search(r"\bnode (has died|was terminated|is gone)", reason) is not None
