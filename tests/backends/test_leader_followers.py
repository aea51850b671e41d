"""The leader: whoever steps down, somebody receives what is owed."""

import os
import threading

import pytest
from faults import procs

from ascend_parallel.backends.processes.leader_followers import LeaderFollowers

pytestmark = pytest.mark.usefixtures("leaves_nothing")


@pytest.fixture
def group():
    """Leader and followers, a pipe that they poll, and what was received."""
    received = threading.Event()
    is_unattended = threading.Event()
    near, far = os.pipe()

    def receive(events):
        assert [fd for fd, _ in events] == [near]
        os.read(near, 1)
        is_unattended.clear()
        received.set()

    lock = threading.Lock()
    group = LeaderFollowers(lock, receive, is_unattended.is_set)
    group.epoll.register(near)
    group.lock, group.received, group.is_unattended, group.pipe = lock, received, is_unattended, far
    yield group
    group.close()
    os.close(near)
    os.close(far)


class Done:
    is_open = is_led = False


def send_and_wait(group):
    group.is_unattended.set()
    os.write(group.pipe, b"x")
    assert group.received.wait(5)


def test_the_background_thread_that_finds_a_leader_is_the_next(group):
    """It was requested, and awoke while a thread was just polling once."""
    assert group._become_leader()
    group._request.set()
    procs.wait_until(lambda: not group._request.is_set() and group._is_requested, "it has come and gone")
    group.is_unattended.set()
    group._step_down(hand_over=False)
    send_and_wait(group)


def test_a_leader_requested_during_a_poll_comes_after_it(group):
    assert group._become_leader()
    group.is_unattended.set()
    with group.lock:
        group.request_leader()
    group._step_down(hand_over=False)
    send_and_wait(group)


def test_a_leader_that_steps_down_hands_over_what_is_owed(group):
    group.is_unattended.set()
    assert group.run_until_done(Done())
    send_and_wait(group)


def test_a_poll_receives_what_has_arrived(group):
    os.write(group.pipe, b"x")
    group.poll()
    assert group.received.is_set() and group.leader is None
