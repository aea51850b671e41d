"""The wire format: complete messages, in order, however the pipe divides them; plain builtins only."""

import os
import pickle
import socket
import struct
import threading
from multiprocessing import Pipe

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_parallel.worker import protocol
from ascend_parallel.worker.protocol import Channel, decode, encode, encode_part

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_the_numbers_of_the_messages():
    names = ("ERROR", "PREDICT", "REPLY", "BUILD_FINISH", "EXIT")
    assert [getattr(protocol, name) for name in names] == [0, 1, 2, 3, 4]


@given(message=plain)
def test_plain_values_survive_the_round_trip(message):
    assert decode(encode_part(message)) == message
    frame = encode(message)
    assert struct.unpack("!i", frame[:4])[0] == len(frame) - 4


numbers = st.integers(-(2**63), 2**63 - 1)


@given(inputs=st.binary(), destinations=st.binary(), start=numbers, rows=numbers)
def test_a_chunk_travels(inputs, destinations, start, rows):
    chunk = protocol.encode_chunk(inputs, destinations, start, rows)
    assert protocol.decode_chunk(chunk) == (inputs, destinations, start, rows)


@given(task=numbers, chunk=st.binary(), retired=st.lists(numbers))
def test_a_predict_travels_packed_or_not(task, chunk, retired):
    frame = protocol.encode_predict(task, chunk, retired)
    assert decode(frame, 4) == (protocol.PREDICT, task, chunk, retired or ())
    assert struct.unpack("!i", frame[:4])[0] == len(frame) - 4


@given(task=numbers, outputs=st.none() | st.lists(st.text()), started_ns=numbers, finished_ns=numbers)
def test_a_reply_survives_the_round_trip_packed_or_not(task, outputs, started_ns, finished_ns):
    frame = protocol.encode_reply(task, outputs, started_ns, finished_ns)
    assert decode(frame, 4) == (protocol.REPLY, task, outputs, started_ns, finished_ns)
    assert struct.unpack("!i", frame[:4])[0] == len(frame) - 4


@pytest.mark.parametrize("item", [np.ones(2), np.float32(1), ValueError("x"), os.system, complex(1)], ids=repr)
def test_other_values_are_refused(item):
    with pytest.raises(pickle.UnpicklingError, match="only plain builtins travel"):
        decode(encode_part((1, item)))


@settings(deadline=None, max_examples=50)
@given(messages=st.lists(plain, min_size=1, max_size=6), cuts=st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_messages_arrive_complete_however_they_are_divided(messages, cuts):
    near, far = socket.socketpair()
    with near, far:
        channel = Channel(far.fileno())
        os.set_blocking(far.fileno(), False)
        data = b"".join(encode(message) for message in messages)
        arrived, at, turn = [], 0, 0
        while at < len(data):
            size = cuts[turn % len(cuts)]
            near.sendall(data[at : at + size])
            at, turn = at + size, turn + 1
            arrived += channel.receive_ready()
        assert arrived == messages
        assert channel.receive_ready() == []


def test_a_full_pipe_never_blocks_the_master(ends):
    near, far = ends
    os.set_blocking(near.fileno(), False)
    sender, receiver = Channel(near.fileno()), Channel(far.fileno())
    messages = [(number, "x" * 50_000) for number in range(40)]
    for message in messages:
        sender.send(message)
    assert sender.unsent
    arrived = []
    while len(arrived) < len(messages):
        arrived.append(receiver.receive())
        sender.flush()
    assert arrived == messages and not sender.unsent


def test_a_closed_end_is_an_eof(ends):
    near, far = ends
    Channel(near.fileno()).send((1,))
    near.close()
    channel = Channel(far.fileno())
    assert channel.receive() == (1,)
    with pytest.raises(EOFError, match="closed"):
        channel.receive()
    with pytest.raises(EOFError):
        channel.receive_ready()
    with pytest.raises(OSError):
        channel.send((1,))


def test_half_a_message_before_the_end_is_an_eof(ends):
    near, far = ends
    near.sendall(encode("x" * 100)[:50])
    near.close()
    with pytest.raises(EOFError):
        Channel(far.fileno()).receive()


def test_the_framing_is_that_of_multiprocessing():
    near, far = Pipe()
    with near, far:
        channel = Channel(far.fileno())
        near.send_bytes(encode_part({"a": [1, 2]}))
        assert channel.receive() == {"a": [1, 2]}
        channel.send((protocol.REPLY, 7))
        assert near.recv() == (protocol.REPLY, 7)


def test_a_waiting_receive_gets_a_later_message(ends):
    near, far = ends
    got = []
    thread = threading.Thread(target=lambda: got.append(Channel(far.fileno()).receive()))
    thread.start()
    near.sendall(encode("late"))
    thread.join(10)
    assert got == ["late"]
