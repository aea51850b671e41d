"""How calls are cut for hosts, and which pieces go to which host: without Ray."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascend_parallel.batching.batch import cut
from ascend_parallel.cluster import messages
from ascend_parallel.cluster.hosts import cut_bundles
from ascend_parallel.cluster.messages import (
    BUFFER_BYTES,
    COPYING_THREADS,
    HEAD_BYTES,
    MEDIUM_BYTES,
    MOST_CUT_BYTES,
    Reply,
    decode_error,
    encode_error,
    objects_of,
    pack_arrays,
    pack_replies,
    unpack_arrays,
    unpack_replies,
)
from ascend_parallel.cluster.pieces import ClusterModel, share_out
from ascend_parallel.cluster.ray_session import Node
from ascend_parallel.cluster.scheduler import BUNDLE_S, Scheduler
from ascend_parallel.cluster.slots import READY, Slot
from ascend_parallel.errors import EngineError, ShapeError, WorkerDied, WorkerTimeout

capacities = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(tasks=st.integers(1, 200), capacities=capacities)
def test_all_tasks_are_shared_out_and_no_host_gets_more_than_it_computes_at_a_time(tasks, capacities):
    counts = share_out(tasks, capacities)
    assert sum(counts) == tasks and min(counts) >= 1
    assert max(counts) <= max(capacities)
    if tasks <= sum(capacities):
        assert len(counts) <= len(capacities)
    if tasks == sum(capacities):
        assert counts == capacities


@given(rows=st.integers(1, 300), capacities=capacities, size=st.one_of(st.none(), st.integers(1, 7)))
def test_hosts_cut_their_pieces_into_the_tasks_that_one_host_alone_would_have(rows, capacities, size):
    model = ClusterModel(
        "",
        {"inputs": [("x", "float32", ("batch", 1))], "outputs": None, "seen": None},
        batch_axes={},
        chunk_size=size,
        capacities=lambda: tuple(capacities),
    )
    plan, _ = model.plan({"x": np.zeros((rows, 1), np.float32)})
    whole = cut(rows, fixed_rows=None, chunk_size=size, parts=sum(capacities))
    # What a host does: it is told how many tasks a piece is.
    tasks = []
    for piece in plan.chunks:
        start, stop = piece
        own = cut(stop - start, fixed_rows=None, chunk_size=size, parts=piece.parts)
        tasks += [(start + first, start + last) for first, last in own]
    assert tasks == whole


def nodes(*free):
    return [Node(str(i), f"node{i}", 8, count) for i, count in enumerate(free)]


@pytest.mark.parametrize(
    "free, wanted, per_actor, expected",
    [
        ((2, 2, 2), None, None, [2, 2, 2]),
        ((8, 0, 4), None, None, [8, 4]),
        ((8, 0, 4), None, 3, [3, 3, 3]),
        ((8, 8), 10, None, [8, 2]),
        ((8, 8), 16, 4, [4, 4, 4, 4]),
        ((8, 1), 10, None, []),
        ((3, 3), 4, 2, [2, 2]),
        ((1, 1), 2, 2, []),
        ((0, 0), None, None, []),
    ],
)
def test_bundles_are_cut_from_what_is_free(free, wanted, per_actor, expected):
    assert cut_bundles(nodes(*free), wanted, per_actor) == expected


# ---- messages


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES, HEAD_BYTES + 1, MEDIUM_BYTES, MEDIUM_BYTES + 1])
def test_arrays_of_all_sizes_come_back(size):
    arrays = [np.random.default_rng(0).integers(0, 255, size, np.uint8), np.array(3.5), np.zeros((0, 2), "int16")]
    following = []
    packed = pack_arrays(arrays, following)
    for array, back in zip(arrays, unpack_arrays(packed, following), strict=True):
        assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)
    assert all(len(part) <= HEAD_BYTES for part in following if isinstance(part, bytes))


@pytest.mark.parametrize("size", [1, BUFFER_BYTES - 3, BUFFER_BYTES, 3 * BUFFER_BYTES + 4])
def test_large_arrays_are_cut_and_read_where_they_lie(size):
    arrays = [np.random.default_rng(0).integers(0, 255, size, np.uint8), np.zeros((3, MEDIUM_BYTES // 8))]
    following = []
    packed = pack_arrays(arrays, following)
    assert all(part.nbytes <= BUFFER_BYTES for part in following)
    for array, back in zip(arrays, unpack_arrays(packed, following), strict=True):
        assert np.shares_memory(back, array) and np.array_equal(back, array) and back.shape == array.shape
    apart = [part.copy() for part in following]
    copies = unpack_arrays(packed, apart)
    assert all(np.array_equal(back, array) for array, back in zip(arrays, copies, strict=True))


def test_an_array_in_buffers_keeps_all_of_them():
    whole = np.arange(3 * BUFFER_BYTES, dtype=np.uint8)
    following = []
    packed = pack_arrays([whole], following)
    held = [weakref.ref(part) for part in following]
    (back,) = unpack_arrays(packed, following)
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1
    following.clear()
    assert all(part() is not None for part in held)
    del back
    assert all(part() is None for part in held)


@pytest.mark.parametrize("cores, buffers", [(1, 5), (COPYING_THREADS - 1, 5), (COPYING_THREADS, 1)])
def test_larger_arrays_are_left_to_ray_s_threads_where_these_have_cores(cores, buffers, monkeypatch):
    monkeypatch.setattr(messages, "usable_cores", lambda: cores)
    messages._has_many_cores.cache_clear()
    small, large = [], []
    pack_arrays([np.zeros(MOST_CUT_BYTES, np.uint8)], small)
    pack_arrays([np.zeros(MOST_CUT_BYTES + 1, np.uint8)], large)
    messages._has_many_cores.cache_clear()
    assert (len(small), len(large)) == (MOST_CUT_BYTES // BUFFER_BYTES, buffers)


@pytest.mark.parametrize("size", [10, HEAD_BYTES + 1, MEDIUM_BYTES, 2 * MEDIUM_BYTES])
@pytest.mark.parametrize("expected", [0, 10, HEAD_BYTES + 1, MEDIUM_BYTES])
def test_an_answer_has_as_many_objects_as_ray_was_told(size, expected):
    """The size of outputs is a guess by earlier calls."""
    array = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    replies = [Reply({"y": array}, None, 1, 2), Reply(None, {"type": "X"}, 3, 4)]
    objects = objects_of(expected)
    answer = pack_replies(replies, 5, objects)
    (first, second), host_ns = unpack_replies(answer if objects > 1 else [answer])
    assert objects == 1 or len(answer) == objects
    assert np.array_equal(first.outputs["y"], array) and (first.started_ns, first.finished_ns) == (1, 2)
    assert second.error == {"type": "X"} and host_ns == 5


@pytest.mark.parametrize(
    "error, kind",
    [
        (EngineError("it broke", device="cpu:0", remote_traceback="..."), EngineError),
        (WorkerDied("it died", device="cpu:0", exit_code=-9), WorkerDied),
        (WorkerTimeout("late", device="cpu:0"), WorkerTimeout),
        (ShapeError("too long"), ShapeError),
        (KeyError("x"), EngineError),
    ],
)
def test_errors_keep_their_class_and_name_the_host(error, kind):
    back = decode_error(encode_error(error), "node1", "node1/cpu:0")
    assert type(back) is kind
    assert str(back).startswith("host node1: ")
    assert getattr(back, "device", "node1/cpu:0") == "node1/cpu:0"
    for name in ("exit_code", "remote_traceback"):
        if hasattr(error, name):
            assert getattr(back, name) == getattr(error, name)


# ---- the scheduler


def piece(parts=1, size=10, following=(), failures=0, model=""):
    plan = SimpleNamespace(model_name=model)
    call = SimpleNamespace(is_open=True, plan=plan)
    return SimpleNamespace(parts=parts, bytes=size, following=list(following), failures=failures, call=call)


def slot(capacity=2, state=READY):
    made = Slot(capacity, capacity, None, 0, is_optional=False)
    made.set_state(state)
    return made


def taken(scheduler, slots):
    return [(slots.index(s.slot), len(s.pieces)) for s in scheduler.take(slots)]


def finish(shipment, scheduler, seconds):
    shipment.slot.in_flight.remove(shipment)
    scheduler.learn(shipment, seconds)


def test_idle_hosts_come_first_and_a_second_bundle_waits_at_each():
    scheduler, slots = Scheduler(), [slot(1), slot(1)]
    scheduler.add(piece() for _ in range(5))
    assert taken(scheduler, slots) == [(0, 1), (1, 1), (0, 1), (1, 1)]
    assert len(scheduler) == 1


def test_short_tasks_are_bundled_and_long_ones_are_not():
    scheduler, slots = Scheduler(), [slot(1), slot(1)]
    scheduler.add(piece() for _ in range(100))
    for shipment in scheduler.take(slots):
        finish(shipment, scheduler, 1e-5)
    assert all(count > 10 for _, count in taken(scheduler, slots)[:2])
    for one in slots:
        for shipment in list(one.in_flight):
            finish(shipment, scheduler, BUNDLE_S * 1e4)
    scheduler.add(piece() for _ in range(100))
    assert {count for _, count in taken(scheduler, slots)} == {1}


def test_a_bundle_is_no_larger_than_one_message():
    scheduler, slots = Scheduler(), [slot(1)]
    scheduler.add([piece(size=1)])
    finish(scheduler.take(slots)[0], scheduler, 1e-6)
    scheduler.add(piece(size=HEAD_BYTES // 4) for _ in range(20))
    assert taken(scheduler, slots) == [(0, 4), (0, 4)]


def test_large_pieces_go_alone():
    scheduler, slots = Scheduler(), [slot(1)]
    scheduler.add([piece(size=1)])
    finish(scheduler.take(slots)[0], scheduler, 1e-6)
    scheduler.add([piece(), piece(following=[b""]), piece()])
    assert taken(scheduler, slots) == [(0, 1), (0, 1)]


def test_a_piece_whose_host_was_lost_goes_alone_to_a_host_that_does_nothing_else():
    scheduler, slots = Scheduler(), [slot(1), slot(1)]
    scheduler.add(piece() for _ in range(3))
    first = scheduler.take(slots)
    suspect = piece(failures=1)
    scheduler.put_back([suspect])
    scheduler.add(piece() for _ in range(5))
    assert scheduler.take(slots) == [], "all are busy: the one that is free first is kept free"
    for shipment in [s for s in first if s.slot is slots[1]]:
        finish(shipment, scheduler, 1.0)
    again = scheduler.take(slots)
    assert [(s.slot, s.pieces) for s in again if suspect in s.pieces] == [(slots[1], [suspect])]
    assert not [s for s in again if s.slot is slots[1] and suspect not in s.pieces]


def test_pieces_of_calls_that_are_over_are_forgotten():
    scheduler, slots = Scheduler(), [slot(4)]
    pieces = [piece() for _ in range(4)]
    for dead in (pieces[0], pieces[2]):
        dead.call.is_open = False
    scheduler.add(pieces)
    shipped = [p for s in scheduler.take(slots) for p in s.pieces]
    assert shipped == [pieces[1], pieces[3]]


def test_hosts_that_are_not_ready_get_nothing():
    scheduler, slots = Scheduler(), [slot(state="starting"), slot(state="out")]
    scheduler.add([piece()])
    assert scheduler.take(slots) == []


def test_figures_outlive_an_actor():
    one = slot()
    one.host, one.names = "node1", {"cpu:0": "node1/cpu:3"}
    told = {"state": "ready", "pid": 7, "tasks": 2, "rows": 5, "busy_s": 0.5, "restarts": 0}
    one.note_stats({"cpu:0#1": told})
    assert one.stats() == {"node1/cpu:3#1": told}
    one.end_stats()
    one.restarts = 1
    one.note_stats({"cpu:0#1": {**told, "pid": 8}})
    assert one.stats()["node1/cpu:3#1"] == {**told, "pid": 8, "tasks": 4, "rows": 10, "busy_s": 1.0, "restarts": 1}


def test_the_budget_of_restarts():
    one = slot()
    assert [one.may_restart(2) for _ in range(4)] == [True, True, False, False]
