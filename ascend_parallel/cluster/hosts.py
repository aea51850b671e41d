"""The hosts that a runner holds: resources reserved through placement groups, an actor in each, and their restarts.

Ray places the groups and reschedules the bundles of a node that is lost; it starts the actors and tells of their ends.
The service thread of the backend runs everything here after the first start, so that there is no lock of its own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ascend_parallel.errors import RunnerClosedError, UsageError, WorkerError, WorkerTimeout

from . import ray_session
from .host import actor_class
from .ray_session import Node
from .scheduler import SHIPMENTS_AHEAD
from .settings import HostSpec
from .slots import OUT, READY, STARTING, Slot

#: A host that was found with free devices, but does not give them in this time, is given up: somebody else took them,
#: or the host is lost and Ray has not noticed yet.
PLACING_TIMEOUT_S = 10.0
#: How long closing waits for the local runners to end by themselves.
CLOSE_GRACE_S = 5.0
#: How often the first start looks whether devices have become free, and after how long it says that it waits: what a
#: runner has given back is free a moment later.
SURVEY_INTERVAL_S = 0.2
PATIENCE_S = 3.0


class Demand(NamedTuple):
    """What a runner wants of the cluster.

    Attributes:
        device_type: such as "ascend".
        resource: Ray's name of what a device takes.
        devices: how many devices; None for all, those of hosts that join later included.
        devices_per_actor: devices of each actor; None: all of a host.
        instances: how many tasks a device computes at a time.
        build_timeout_s: how long it may take to get the devices and to build the models.
        max_restarts: how many actors of a slot may end within ten minutes before it is given up.
    """

    device_type: str
    resource: str
    devices: int | None
    devices_per_actor: int | None
    instances: int
    build_timeout_s: float
    max_restarts: int


def cut_bundles(nodes: Sequence[Node], wanted: int | None, per_actor: int | None) -> list[int]:
    """Return the devices of each bundle to reserve: the hosts with most free devices first; [] if too few are free."""
    sizes: list[int] = []
    for node in sorted(nodes, key=lambda one: -one.free):
        left = node.free if wanted is None else min(node.free, wanted - sum(sizes))
        size = per_actor or left
        while size and left >= size:
            sizes.append(size)
            left -= size
    return sizes if wanted is None or sum(sizes) == wanted else []


class Hosts:
    """The slots of a runner.

    Attributes:
        slots: all of them, those that were given up included.
    """

    def __init__(self, demand: Demand, spec: HostSpec, post: Callable[[str, Slot, int, Any], None]) -> None:
        """Prepare; nothing is reserved.

        Args:
            demand: what is wanted.
            spec: what actors are built with; devices and share are those of the slot.
            post: called from any thread: "built" or "gone", the slot, its generation, and the future.
        """
        self.slots: list[Slot] = []
        self._demand = demand
        self._spec = spec
        self._post = post
        self._groups: list[Any] = []
        self._is_closed = False
        self._actor_class: Any = actor_class()

    # ---- reserving

    def reserve_first(self) -> None:
        """Reserve the devices that are wanted, and start their actors; wait while others hold them.

        Raises:
            UsageError: the cluster does not have what is wanted.
            WorkerTimeout: it was not free in ``build_timeout_s``.
            RunnerClosedError: :meth:`close` was called meanwhile.
        """
        demand = self._demand
        deadline_s = time.monotonic() + demand.build_timeout_s
        patience_s = time.monotonic() + PATIENCE_S
        while True:
            if self._is_closed:
                raise closed_early()
            nodes = ray_session.survey(demand.resource)
            self._check_enough(nodes)
            sizes = cut_bundles(nodes, demand.devices, demand.devices_per_actor)
            if sizes:
                break
            if time.monotonic() > deadline_s:
                raise WorkerTimeout(f"{self._describe_lack(nodes)}; they did not become free in build_timeout_s")
            if time.monotonic() > patience_s:
                report(f"waiting: {self._describe_lack(nodes)}")
                patience_s = deadline_s
            time.sleep(SURVEY_INTERVAL_S)
        for slot in self._reserve(sizes):
            self.start(slot)

    def _check_enough(self, nodes: Sequence[Node]) -> None:
        demand = self._demand
        if not nodes:
            there = ", ".join(sorted(name for name in ray_session.resources_of_cluster() if ":" not in name)) or "none"
            raise UsageError(
                f"no host of the Ray cluster has the resource {demand.resource}, which {demand.device_type} devices "
                f"take (there are: {there}); start Ray on the hosts with it, as in ray start --resources="
                f"'{{\"{demand.resource}\": 2}}', or name other devices"
            )
        whole = [node._replace(free=node.total) for node in nodes]
        if not cut_bundles(whole, demand.devices, demand.devices_per_actor):
            per_actor = f" in actors of {demand.devices_per_actor}" if demand.devices_per_actor else ""
            hosts = ", ".join(f"{node.name} has {node.total}" for node in nodes)
            raise UsageError(
                f"{demand.devices or 'some'} {demand.device_type} devices{per_actor} are wanted, more than the cluster "
                f"has: {hosts} of {demand.resource}"
            )

    def _describe_lack(self, nodes: Sequence[Node]) -> str:
        hosts = ", ".join(f"{node.name} has {node.free} of {node.total}" for node in nodes)
        wanted = self._demand.devices or self._demand.devices_per_actor or "some"
        return f"{wanted} {self._demand.resource} are wanted, but others hold them; free are: {hosts}"

    def _reserve(self, sizes: Sequence[int]) -> list[Slot]:
        """Ask Ray for bundles: one group for a number of devices, so that two drivers do not get half each."""
        from ray.util.placement_group import placement_group

        resource = self._demand.resource
        made = []
        for group_sizes in [list(sizes)] if self._demand.devices is not None else [[size] for size in sizes]:
            group = placement_group([{resource: size} for size in group_sizes], strategy="SPREAD")
            self._groups.append(group)
            for index, size in enumerate(group_sizes):
                made.append(self._slot(size, group, index))
        self.slots = [*self.slots, *made]  # a new list: callers' threads may be going through the old one
        return made

    def _slot(self, devices: int, group: Any, index: int) -> Slot:
        capacity = devices * self._demand.instances
        return Slot(devices, capacity, group, index, is_optional=self._demand.devices is None)

    # ---- actors

    def start(self, slot: Slot) -> None:
        """Start an actor in a slot; Ray runs it once the bundle has a place."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        slot.generation += 1
        slot.set_state(STARTING)
        resource, generation = self._demand.resource, slot.generation
        names = {"CPU": {"num_cpus": slot.devices}, "GPU": {"num_cpus": 0, "num_gpus": slot.devices}}
        resources: dict[str, Any] = {"num_cpus": 0, "resources": {resource: slot.devices}}
        slot.actor = self._actor_class.options(
            **names.get(resource, resources),
            max_concurrency=1 if slot.capacity == 1 else slot.capacity + SHIPMENTS_AHEAD,
            scheduling_strategy=PlacementGroupSchedulingStrategy(slot.group, slot.index),
        ).remote()
        spec = self._spec._replace(devices=slot.devices)
        self._call_back("built", slot, generation, slot.actor.build.remote(spec))

    def _call_back(self, event: str, slot: Slot, generation: int, reference: Any) -> None:
        reference.future().add_done_callback(lambda done: self._post(event, slot, generation, done))

    def accept(self, slot: Slot, told: dict[str, Any]) -> None:
        """Take what an actor says that has built its models; it is ready from now on."""
        slot.node = told["node"]
        slot.host = told["host"]
        slot.names = self._name_devices(slot, told)
        slot.set_state(READY)
        self._call_back("gone", slot, slot.generation, slot.actor.watch.remote())

    def _name_devices(self, slot: Slot, told: dict[str, Any]) -> dict[str, str]:
        """Return the devices' names on the host -> in the cluster: by the assigned ids, else by free numbers."""
        others = [one for one in self.slots if one is not slot and one.state == READY and one.node == slot.node]
        taken = {name for one in others for name in one.names.values()}
        kind = self._demand.device_type
        free = (number for number in range(1 << 20) if f"{slot.host}/{kind}:{number}" not in taken)
        ids = told["ids"] or [next(free) for _ in told["devices"]]
        return {name: f"{slot.host}/{kind}:{number}" for name, number in zip(told["devices"], ids, strict=True)}

    def restart(self, slot: Slot, reason: str, *, counts: bool) -> None:
        """Start another actor in a slot whose actor has ended, or give the slot up.

        Args:
            slot: the slot.
            reason: why the actor ended.
            counts: whether it counts against the budget; the loss of a node does not.
        """
        self.kill(slot)
        slot.reason = reason
        if counts and not slot.may_restart(self._demand.max_restarts):
            slot.set_state(OUT)
            report(f"host {slot.host or '?'} is given up: its actor ended too often; the last time: {reason}")
            return
        slot.restarts += 1
        self.start(slot)

    def kill(self, slot: Slot) -> None:
        """End the actor of a slot; what is still heard of it is ignored."""
        import ray

        slot.generation += 1
        if slot.actor is not None:
            with contextlib.suppress(Exception):  # it may be gone
                ray.kill(slot.actor)
            slot.actor = None

    # ---- hosts that come and go

    def look_around(self) -> list[Slot]:
        """Use devices that have become free, where all are wanted; return the slots that are out for good."""
        nodes = ray_session.survey(self._demand.resource)
        living = {node.id for node in nodes}
        lost = self.give_up_late() + self._give_up_homeless(nodes)
        for slot in self.slots:
            if slot.state == READY and slot.node not in living:
                self._post("gone", slot, slot.generation, None)
        if self._demand.devices is None:
            self._grow(nodes)
        return lost

    def _grow(self, nodes: Sequence[Node]) -> None:
        starting = sum(slot.state == STARTING for slot in self.slots)
        sizes = cut_bundles(nodes, None, self._demand.devices_per_actor)
        for slot in self._reserve(sizes[starting:]):  # Ray moves the lost ones to free devices first
            self.start(slot)

    def give_up_late(self) -> list[Slot]:
        """Give up optional slots that got no devices, and slots whose actor was not built in time; return them."""
        now_s = time.monotonic()
        lost = []
        for slot in self.slots:
            limit_s = self._demand.build_timeout_s
            if slot.is_optional and not slot.node and not _is_placed(slot):
                limit_s = min(limit_s, PLACING_TIMEOUT_S)
            if slot.state == STARTING and now_s - slot.since_s > limit_s:
                self.give_up(slot, slot.reason or f"its models were not built in {limit_s:g} s")
                lost.append(slot)
        return lost

    def _give_up_homeless(self, nodes: Sequence[Node]) -> list[Slot]:
        """Give up the slots that no living node is large enough for, if there are no others."""
        homeless = [slot for slot in self.slots if slot.state == STARTING and not _has_home(slot, nodes)]
        if any(slot.state != OUT and slot not in homeless for slot in self.slots):
            return []
        for slot in homeless:
            self.give_up(slot, slot.reason or "no living node has the devices")
        return homeless

    def give_up(self, slot: Slot, reason: str) -> None:
        """Use a slot no more; an optional one that was never used gives its devices back."""
        self.kill(slot)
        slot.reason = reason
        slot.set_state(OUT)
        if slot.is_optional and not slot.node:
            self._remove(slot.group)
            self.slots = [other for other in self.slots if other is not slot]

    # ---- the end

    def close(self) -> None:
        """End all actors, and give the devices back."""
        import ray

        self._is_closed = True
        if not ray.is_initialized():  # the program has left the cluster, and with it went all that was started
            return
        closing = []
        for slot in self.slots:
            if slot.actor is not None and slot.state == READY:
                with contextlib.suppress(Exception):
                    closing.append(slot.actor.close.remote())
        if closing:
            with contextlib.suppress(Exception):
                ray.wait(closing, num_returns=len(closing), timeout=CLOSE_GRACE_S)
        for slot in self.slots:
            self.kill(slot)
        for group in self._groups:
            self._remove(group)
        self._groups = []

    def _remove(self, group: Any) -> None:
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):  # the cluster may be gone
            remove_placement_group(group)


def _is_placed(slot: Slot) -> bool:
    from ray.util.placement_group import placement_group_table

    return bool(placement_group_table(slot.group)["state"] == "CREATED")


def _has_home(slot: Slot, nodes: Sequence[Node]) -> bool:
    return any(node.total >= slot.devices for node in nodes)


def closed_early() -> RunnerClosedError:
    """Return the error for the thread that builds a runner which another closes."""
    return RunnerClosedError("the runner was closed while it was being built")


def no_host_left(slots: Sequence[Slot]) -> WorkerError:
    """Return the error for calls that nobody can compute any more; it names the hosts."""
    hosts = "; ".join(f"{slot.host or 'a host'}: {slot.reason}" for slot in slots) or "there were none"
    return WorkerError(f"no host of the cluster is left ({hosts}); close the runner and build a new one")


def report(text: str) -> None:
    """Print a note about hosts."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed, or None
        print(f"[cluster] {text}", file=sys.stderr, flush=True)
