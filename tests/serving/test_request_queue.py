"""Which requests make the next batch, by how long batches take."""

import numpy as np
import pytest

from ascend_parallel.batching.join import Rows
from ascend_parallel.serving.batch_times import BatchTimes
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.serving.request_queue import RequestQueue

MAX_ROWS = 16
#: A batch takes (any batch, each row) so long.
MLP, CNN, GPU = (50e-6, 5e-6), (50e-6, 300e-6), (5e-3, 0.1e-3)


def make_request(rows=1, key=1, fixed_rows=None):
    request = InferRequest(("x",), [np.zeros((rows, 1))], lambda request: None)
    request.rows, request.key = rows, key
    request.layout = Rows(rows, (0,), fixed_rows, can_join=True, is_whole=True)
    return request


def make_queue(waiting, times=None, *, workers=2, last_rows=0, fixed_rows=None):
    """Return a queue with requests of one row, and its group."""
    queue = RequestQueue(MAX_ROWS, 0.0, workers)
    for _ in range(waiting):
        queue.add(make_request(fixed_rows=fixed_rows))
    if times is not None:
        teach(queue.times, times)
        queue.times.last_rows = last_rows
    group, _ = queue.choose(0.0)
    return queue, group


def teach(times, model, sizes=(1, 4, MAX_ROWS), batches=4):
    fixed_s, row_s = model
    for rows in sizes:
        for _ in range(batches):
            times.note(rows, fixed_s + rows * row_s)


@pytest.mark.parametrize("model", [MLP, CNN, GPU])
def test_the_times_of_a_model_are_found(model):
    times = BatchTimes()
    teach(times, model)
    assert (times.fixed_s, times.row_s) == pytest.approx(model)
    assert times.expect_s(10) == pytest.approx(model[0] + 10 * model[1])


def test_times_are_unknown_before_two_sizes_were_seen():
    times = BatchTimes()
    teach(times, CNN, sizes=[4], batches=10)
    assert times.expect_s(4) == float("inf")


def test_the_first_batches_of_a_size_do_not_count():
    """An engine prepares itself for a new shape, which takes many times as long."""
    times = BatchTimes()
    teach(times, MLP, sizes=[1, 4])
    teach(times, (20e-3, 0.0), sizes=[MAX_ROWS], batches=3)
    assert times.expect_s(MAX_ROWS) == pytest.approx(MLP[0] + MAX_ROWS * MLP[1])


def test_a_time_that_other_work_made_longer_is_not_believed_and_a_slower_device_is():
    times = BatchTimes()
    teach(times, CNN)
    times.note(MAX_ROWS, 1.0)
    assert times.expect_s(MAX_ROWS) < 1.1 * (CNN[0] + MAX_ROWS * CNN[1])
    teach(times, (2 * CNN[0], 2 * CNN[1]), batches=400)
    assert times.row_s == pytest.approx(2 * CNN[1])


def test_add_tells_when_a_batch_is_whole():
    queue = RequestQueue(4, 0.0, 1)
    assert [queue.add(make_request(rows)) for rows in (1, 2, 1, 1)] == [False, False, True, True]
    assert queue.add(make_request(key=2)) is False


@pytest.mark.parametrize(
    ("model", "waiting", "idle", "taken"),
    [
        (None, 8, 2, 4),  # as long as nothing is known of the model, idle workers share
        (MLP, 8, 2, 8),  # one worker has computed 8 rows before another has woken up
        (MLP, 40, 2, MAX_ROWS),
        (GPU, 8, 2, 4),
        (GPU, 8, 1, 8),
        (CNN, 8, 2, 2),  # of two workers, each computes one batch while the clients of another are answered
        (CNN, 8, 1, 3),
        (CNN, 8, 0, 4),
        (CNN, 1, 2, 1),
        (CNN, 100, 2, MAX_ROWS),
    ],
)
def test_what_one_worker_gets(model, waiting, idle, taken):
    queue, group = make_queue(waiting, model)
    assert len(queue.take(group, idle)) == taken
    assert len(queue) == waiting - taken


def test_a_batch_of_fixed_size_is_filled():
    queue, group = make_queue(10, CNN, fixed_rows=8)
    assert len(queue.take(group, 2)) == 8


@pytest.mark.parametrize(
    ("model", "waiting", "last_rows", "may"),
    [
        (None, MAX_ROWS, 0, True),
        (None, MAX_ROWS - 1, 0, False),
        (GPU, 8, 4, False),  # they would take twice as long as in one batch with those that come meanwhile
        (MLP, 8, 4, False),
        (CNN, 4, 4, True),
        (CNN, 3, 4, False),  # the clients of the last batch are not all back
    ],
)
def test_what_goes_to_a_worker_that_computes(model, waiting, last_rows, may):
    queue, group = make_queue(waiting, model, last_rows=last_rows)
    assert queue.may_go_ahead(group) is may
