"""The master's shared memory: who holds it, and that it comes back."""

import gc
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_parallel import UsageError
from ascend_parallel.backends import allocator as allocator_module
from ascend_parallel.backends.allocator import PAGE_BYTES, Allocator
from ascend_parallel.worker.memory import (
    MappedSegments,
    SharedArray,
    align,
    create_memfd,
    receive_segment,
    send_segment,
)


@pytest.fixture
def pool():
    made = Allocator()
    yield made
    made.close()


def array_of(allocation):
    return np.asarray(allocation)


@given(sizes=st.lists(st.integers(0, 3 * PAGE_BYTES), max_size=40), drops=st.lists(st.integers(0, 39), max_size=40))
@settings(deadline=None, max_examples=60)
def test_blocks_never_overlap(sizes, drops):
    pool = Allocator()
    held = {}
    for number, size in enumerate(sizes):
        allocation = pool.allocate(size)
        array = array_of(allocation)
        assert len(array) == size and allocation.offset % PAGE_BYTES == 0
        array[:] = number % 251
        held[number] = array
        del allocation, array
        if drops and drops[number % len(drops)] in held:
            del held[drops[number % len(drops)]]
        assert all((held[other] == other % 251).all() for other in held)
    held.clear()
    assert pool.held_bytes()[0] == 0
    pool.close()


def test_a_block_is_held_by_any_array_in_it(pool):
    view = array_of(pool.allocate(100))[10:20].reshape(2, 5).view(np.int8)
    gc.collect()
    assert pool.held_bytes()[0] == PAGE_BYTES
    del view
    assert pool.held_bytes()[0] == 0


def test_blocks_are_used_again(pool):
    first = pool.allocate(5000)
    where = first.at(0)
    del first
    assert pool.allocate(6000).at(0) == where, "the same power of two"
    mapped = pool.held_bytes()[1]
    for _ in range(1000):
        pool.allocate(6000)
    assert pool.held_bytes()[1] == mapped


def test_arrays_outlive_the_pool_and_descriptors_do_not():
    before = len(os.listdir("/proc/self/fd"))
    pool = Allocator()
    array = array_of(pool.allocate(1 << 20))
    array[:] = 7
    free = pool.allocate(5000)
    del free
    pool.close()
    assert len(os.listdir("/proc/self/fd")) == before + 1, "a mapping has a descriptor of its own"
    assert (array == 7).all()
    array[:] = 8
    del array
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_idle_segment_goes_back_to_the_system(pool, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(allocator_module.time, "monotonic", lambda: now[0])
    pool._next_trim_s = 0
    allocation = pool.allocate(1 << 20)
    number = allocation.segment.number
    allocation.segment.workers.add(5)
    del allocation
    pool.held_bytes()
    now[0] += allocator_module.IDLE_SEGMENT_S + 1
    pool.allocate(10)
    assert pool.held_bytes()[1] < 1 << 20
    assert pool.take_unmapped(5) == [number]
    assert pool.take_unmapped(5) == []


def test_many_threads(pool):
    errors = []

    def work(number):
        try:
            for i in range(300):
                array = array_of(pool.allocate(1000 * (1 + i % 7)))
                array[:] = number
                assert (array == number).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pool.held_bytes()[0] == 0


def test_empty_is_in_shared_memory_and_refuses_objects(pool):
    made = pool.empty((2, 3), "int16")
    assert (made.shape, made.dtype) == ((2, 3), np.int16)
    assert pool.held_bytes()[0] == PAGE_BYTES
    assert pool.empty((), "float64").shape == ()
    with pytest.raises(UsageError, match="dtype is object; expected numbers or booleans"):
        pool.empty((2,), object)


# ---- both sides


@given(
    axis=st.sampled_from([None, 0, 1, 2]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    start=st.integers(0, 4),
    dtype=st.sampled_from(["<f2", "<f4", "<i8", "|u1", "|b1"]),
)
@settings(deadline=None)
def test_the_chunks_of_a_shared_array_are_contiguous_and_apart(axis, shape, start, dtype):
    itemsize = np.dtype(dtype).itemsize
    buffer = bytearray(64 + int(np.prod(shape)) * itemsize)
    shared = SharedArray(buffer, 64, dtype, shape, axis, True)
    total = shape[axis] if axis is not None else 1
    start = min(start, total - 1)
    first, second = shared.rows(0, start), shared.rows(start, total - start)
    assert second.flags.c_contiguous and second.dtype == dtype
    if axis is None:
        assert first.shape == second.shape == shape
        return
    second[...] = 1
    assert (first == 0).all() and not any(buffer[:64])
    assert second.shape == (*shape[:axis], total - start, *shape[axis + 1 :])
    assert first.size + second.size == int(np.prod(shape))


def test_inputs_cannot_be_written_to():
    shared = SharedArray(bytearray(64), 0, "<f4", (4,), 0, False)
    with pytest.raises(ValueError, match="read-only"):
        shared.rows(0, 2)[:] = 1


def test_a_segment_travels_over_a_socket():
    import socket

    near, far = socket.socketpair()
    fd = create_memfd(4096)
    with near, far:
        send_segment(near, 7, 4096, fd)
        os.close(fd)
        mapped = MappedSegments(far)
        shared = mapped.shared_array((7, 64, "<i4", (3,), 0), True)
        shared.rows(0, 3)[:] = [1, 2, 3]
        assert mapped.shared_array((7, 64, "<i4", (3,), None), False).rows(0, 9).tolist() == [1, 2, 3]
        references = mapped.publish([np.arange(5), np.array(2.5), np.zeros((0, 3), "f4")])
        number, size_bytes, own = receive_segment(near)
        os.close(own)
        assert number < 0 and {reference[0] for reference in references} == {number}
        assert [reference[2:4] for reference in references] == [("<i8", (5,)), ("<f8", ()), ("<f4", (0, 3))]
        assert size_bytes >= align(40) + 8
        near.close()
        with pytest.raises(EOFError):
            receive_segment(far)
