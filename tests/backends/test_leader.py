"""The seat of the listener: whoever leaves it, somebody hears what is owed."""

import os
import threading

import pytest
from faults import procs

from ascend_parallel.backends.processes.leader import LeaderFollowers

pytestmark = pytest.mark.usefixtures("leaves_nothing")


@pytest.fixture
def seat():
    """A listener, a pipe that it listens to, and what it has heard."""
    heard = threading.Event()
    is_needed = threading.Event()
    near, far = os.pipe()

    def hear(fd):
        os.read(fd, 1)
        is_needed.clear()
        heard.set()

    lock = threading.Lock()
    listener = LeaderFollowers(lock, hear, is_needed.is_set)
    listener.epoll.register(near)
    listener.lock, listener.heard, listener.needed, listener.pipe = lock, heard, is_needed, far
    yield listener
    listener.close()
    os.close(near)
    os.close(far)


def speak_and_wait(seat):
    seat.needed.set()
    os.write(seat.pipe, b"x")
    assert seat.heard.wait(5)


def test_the_background_thread_that_finds_the_seat_taken_gets_it_next(seat):
    """It was wanted, and awoke while a thread was just having a glance."""
    assert seat._take_seat()
    seat._wanted.set()
    procs.wait_until(lambda: not seat._wanted.is_set() and seat._is_wanted_next, "it has come and gone")
    seat.needed.set()
    seat._leave_seat(hand_over=False)
    speak_and_wait(seat)


def test_who_is_wanted_during_a_glance_comes_after_it(seat):
    assert seat._take_seat()
    seat.needed.set()
    with seat.lock:
        seat.want()
    seat._leave_seat(hand_over=False)
    speak_and_wait(seat)


def test_who_leaves_hands_over_what_is_owed(seat):
    seat.needed.set()
    assert seat.listen_until(lambda: True)
    speak_and_wait(seat)


def test_a_glance_hears_what_was_said(seat):
    os.write(seat.pipe, b"x")
    seat.glance()
    assert seat.heard.is_set() and seat.owner is None
