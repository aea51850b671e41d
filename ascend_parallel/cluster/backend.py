"""The cluster backend: hosts compute the pieces of calls, through the same interface as workers of this machine.

A caller packs its inputs and sends what hosts have room for. The caller of ``predict`` waits for the answers itself, so
that no other thread has to wake up. All other answers come to the service thread, where futures' callbacks run, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter_ns
from typing import Any

from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.backend import AHEAD_S, Backend
from ascend_parallel.backends.call import Call, fail_calls
from ascend_parallel.backends.threads.placement import empty_inputs
from ascend_parallel.batching.batch import Array
from ascend_parallel.batching.plan import Plan
from ascend_parallel.errors import RunnerClosedError, UsageError, WorkerError
from ascend_parallel.waiting import SIGNAL_LATENCY_S

from .answers import complete_pieces, read_answer
from .hosts import Demand
from .messages import objects_of, pack_requests
from .pieces import Capacities, ClusterPlacement, Piece, bundle_of, output_bytes_of
from .scheduler import Scheduler
from .service import ANSWER_GRACE_S, Service, reason_of
from .settings import HostSpec
from .slots import OUT, READY, Shipment, Slot


class ClusterBackend(Backend):
    """Runs the pieces of calls on hosts of a Ray cluster.

    The lock guards the scheduler, what is in flight, and the open calls. It is reentrant, because the handler of a
    signal may call :meth:`close`. It is never held while inputs are packed, outputs copied, or callers notified.

    Attributes:
        capacities: how many tasks each ready host computes at a time; the last that were known, while none is ready.
        manifest_axes: model name -> the batch axes that the manifest beside a MINDIR file tells.
        lock: see above.
        scheduler: the queue of pieces.
        max_retries: how often a piece is sent to another host after its own was lost.
        predict_timeout_s: how long a task may take.
    """

    def __init__(
        self, demand: Demand, spec: HostSpec, *, predict_timeout_s: float, max_retries: int, leave: Callable[[], None]
    ) -> None:
        """Prepare; nothing is reserved.

        Args:
            demand: what is wanted of the cluster.
            spec: what actors are built with.
            predict_timeout_s: see above.
            max_retries: see above.
            leave: called in the end: leaves the cluster.
        """
        super().__init__()
        self.capacities: Capacities = ()
        self.manifest_axes: dict[str, dict[str, int | None]] = {}
        self.predict_timeout_s = predict_timeout_s
        self.max_retries = max_retries
        self.lock = threading.RLock()
        self.scheduler = Scheduler()
        self._leave = leave
        self._allocator = Allocator()
        self._direct: dict[Call, list[Shipment]] = {}
        self._service = Service(self, demand, spec)

    # ---- life

    def start(self) -> None:
        """Reserve the devices and build the models on all hosts at the same time."""
        self._service.start()

    def close(self) -> None:
        """End all actors and give their devices back; open calls fail."""
        if not self.is_own:
            return
        with self.lock:
            if self._state.is_closing:
                return
            self._state.is_closing = True
            open_calls = self._take_open_calls()
        self.fail_calls(open_calls, RunnerClosedError("the runner was closed while this call was under way"))
        self._service.stop()
        self._detach_all()
        self._allocator.close()
        self._leave()

    @property
    def is_closing(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._state.is_closing

    def end_calls(self, error: WorkerError) -> None:
        """Fail all calls, and those to come: nothing can compute them any more."""
        with self.lock:
            self._state.error = error
            calls = self._take_open_calls()
        self.fail_calls(calls, error)

    def check_may_wait(self, method: str) -> None:
        """Raise UsageError in a future's callback, which runs in the service thread."""
        if self._service.is_current():
            raise UsageError(
                f"{method} was called in a future's callback, in a thread of the runner's, where it would wait for "
                "itself; use submit"
            )

    @property
    def _slots(self) -> list[Slot]:
        return self._service.hosts.slots

    # ---- calls

    def place(self, plan: Plan, arrays: Sequence[Array], *, in_place: bool) -> ClusterPlacement:
        """Take memory for the outputs; inputs are packed when the call is enqueued."""
        return ClusterPlacement(plan, arrays, self._allocator, in_place=in_place)

    def place_rows(self, plan: Plan) -> tuple[ClusterPlacement, list[Array]]:
        """Take memory for inputs and outputs."""
        inputs = empty_inputs(plan, self._allocator)
        return ClusterPlacement(plan, inputs, self._allocator, in_place=True), inputs

    def enqueue(self, call: Call) -> None:
        """Pack the inputs, queue the pieces, and send what hosts have room for."""
        assert isinstance(call.placement, ClusterPlacement)
        pieces = [Piece(call, index) for index in range(len(call.plan.chunks))]
        put = None if call.placement.in_place else _put
        for piece in pieces:
            piece.pack(put)
            if call.is_recorded:
                call.note_written(piece.index)
        with self.lock:
            self.check_open()
            self.scheduler.add(pieces)
            shipments = self.scheduler.take(self._slots)
            if len(self.scheduler):  # somebody has to act on answers while this caller waits
                self.release_direct()
            elif call.placement.in_place and call.on_done is None:
                self._keep_direct(call, shipments)
        self.send(shipments)

    def _keep_direct(self, call: Call, shipments: Sequence[Shipment]) -> None:
        """Have the caller of ``predict`` receive the answers to its own shipments. The lock is held."""
        own = [shipment for shipment in shipments if all(piece.call is call for piece in shipment.pieces)]
        for shipment in own:
            shipment.is_direct = True
        self._direct[call] = own

    def release_direct(self) -> None:
        """Have the service thread receive the answers that callers wait for, too. The lock is held.

        It does so every second by itself: an error or a Ctrl-C may have hit a caller before it began to wait.
        """
        direct, self._direct = self._direct, {}
        for shipments in direct.values():
            for shipment in shipments:
                shipment.is_direct = False
                if shipment.references:
                    self._service.expect(shipment)

    def send(self, shipments: Sequence[Shipment]) -> None:
        """Send bundles; the lock is not held."""
        for shipment in shipments:
            heads, following = bundle_of(shipment.pieces)
            objects = objects_of(output_bytes_of(shipment.pieces))
            actor, shipment.sent_ns = shipment.slot.actor, perf_counter_ns()
            try:
                method = actor.run if objects == 1 else actor.run.options(num_returns=objects)
                sent = method.remote(pack_requests(heads, objects), *following)
            except Exception as error:  # the object store is full, or the program has left the cluster
                self._take_back(shipment, error)
                continue
            with self.lock:
                shipment.references = [sent] if objects == 1 else sent
                if not shipment.is_direct:
                    self._service.expect(shipment)

    def _take_back(self, shipment: Shipment, error: Exception) -> None:
        """Fail the calls of a shipment that Ray did not take, unless its host is lost: others get the pieces then."""
        with self.lock:
            if not shipment.is_open:
                return
            shipment.is_open = False
            shipment.slot.in_flight.remove(shipment)
        text = f"Ray did not take a task for host {shipment.slot.host}: {reason_of(error)}"
        self.fail_calls([piece.call for piece in shipment.pieces], WorkerError(text))

    def wait(self, call: Call) -> Any:
        """Wait for the answers, here if they are for this call alone, or until the service thread notifies."""
        self._check_own()
        try:
            own = [shipment for shipment in self._direct.get(call, ()) if shipment.is_direct and shipment.is_open]
            if own and call.is_open:
                self._receive(own)
            while call.is_open and not call.wait(SIGNAL_LATENCY_S):
                pass
        except BaseException:  # Ctrl-C
            self.cancel(call)
            raise
        finally:
            with self.lock:
                self._direct.pop(call, None)
        return call.outputs()

    def _receive(self, own: Sequence[Shipment]) -> None:
        """Wait for the answers to some shipments, and act on them.

        All are fetched at once: to fetch an object from the store takes Ray a millisecond, and two no longer.
        """
        import ray

        try:
            objects = ray.get([reference for shipment in own for reference in shipment.references])
        except ray.exceptions.RayError:  # a host is lost; the service thread sees to that
            with self.lock:
                self.release_direct()
            return
        answers = []
        for shipment in own:
            count = len(shipment.references)
            answers.append((shipment, objects[:count]))
            objects = objects[count:]
        self.take_answers(answers)

    def wait_ahead(self, call: Call) -> None:
        """Wait until the call is completed, but not for long."""
        call.wait(AHEAD_S)

    def cancel(self, call: Call) -> None:
        """Give a call up: its queued pieces are dropped, and what hosts compute of it is, too."""
        with self.lock:
            self.release_direct()
        self.fail_calls([call], RunnerClosedError("the call was abandoned"))
        with self.lock:
            self.scheduler.drop_closed()

    # ---- answers

    def take_answers(self, answers: Sequence[tuple[Shipment, Any]]) -> None:
        """Act on answers: hosts get their next bundles, and then outputs are copied."""
        received_ns = perf_counter_ns()
        read = [(shipment, *read_answer(shipment, answer, received_ns)) for shipment, answer in answers]
        taken = []
        with self.lock:
            for shipment, replies, host_s in read:
                if shipment.is_open:
                    shipment.is_open = False
                    shipment.slot.in_flight.remove(shipment)
                    shipment.slot.progress_s = monotonic()
                    self.scheduler.learn(shipment, host_s)
                    taken.append((shipment, replies))
            shipments = self.scheduler.take(self._slots)
        self.send(shipments)
        for shipment, replies in taken:
            self._finish(shipment, replies)

    def _finish(self, shipment: Shipment, replies: Sequence[Any]) -> None:
        """Complete the pieces of a shipment, or fail their calls."""
        completed, failed = complete_pieces(shipment, replies, self.lock)
        for call in completed:
            call.notify()
        for piece, error in failed:
            if error.is_untried:
                with self.lock:
                    self.scheduler.put_back([piece])
            else:
                self.fail_calls([piece.call], error.error)
        broken = [error for _, error in failed if error.breaks_host]
        if broken:
            self._service.replace(shipment.slot, str(broken[0].error))

    def _take_open_calls(self) -> list[Call]:
        """Return the calls of all pieces that are queued or in flight. The lock is held."""
        in_flight = [piece.call for slot in self._slots for s in slot.in_flight for piece in s.pieces]
        return [*in_flight, *self.scheduler.open_calls()]

    def fail_calls(self, calls: Sequence[Call], error: Exception) -> None:
        """Fail those of the calls that are open, and notify their callers without the lock."""
        fail_calls(calls, error, self.lock)

    def dispatch(self) -> None:
        """Send what hosts have room for."""
        with self.lock:
            shipments = self.scheduler.take(self._slots)
        self.send(shipments)

    def note_capacities(self) -> None:
        """Note which hosts are ready: calls are cut for these from now on."""
        ready = tuple(slot.capacity for slot in self._slots if slot.state == READY)
        self.capacities = ready or self.capacities

    # ---- what it is

    def stats(self) -> dict[str, Any]:
        """Return the figures of each device of each host, and the memory in use here."""
        import ray

        self.check_open()
        actors = {slot: slot.actor for slot in self._slots if slot.state == READY}
        asked = {
            slot: actor.stats.remote()
            for slot, actor in actors.items()
            if actor is not None  # the host was lost just now
        }
        for slot, reference in asked.items():
            try:
                slot.note_stats(ray.get(reference, timeout=ANSWER_GRACE_S)["workers"])
            except ray.exceptions.RayError:
                continue  # it is being lost; its last figures stay
        workers = {label: told for slot in self._slots for label, told in slot.stats().items()}
        return {"workers": workers, "shared_memory": self._allocator.stats()}

    def device_names(self) -> list[str]:
        """Return the devices of all hosts that are not given up, such as ``node1/ascend:0``."""
        return [name for slot in self._slots if slot.state != OUT for name in slot.names.values()]

    def empty(self, shape: Any, dtype: Any) -> Array:
        """Return an uninitialised array; raises UsageError."""
        return self._allocator.empty(shape, dtype)


def _put(buffers: tuple[Array, ...]) -> Any:
    """Copy buffers to the object store, as one object; return its reference."""
    import ray

    return ray.put(buffers)
