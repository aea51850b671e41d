"""HTTP's rules on the infer route, over raw sockets: what is no HTTP, what is cut short, and the order of answers."""

import concurrent.futures
import contextlib
import gzip
import re
import socket

import numpy as np
import pytest

from .servers import encode_request, serving
from .serving_models import write_factories

HEAD_BYTES, BODY = encode_request({"x": np.ones((1, 3), np.float32)})
POST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n" % HEAD_BYTES
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
INFER = POST + LENGTH + b"\r\n" + BODY
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"a\r\n" + BODY[:10] + b"\r\n%x;ext=1\r\n" % (len(BODY) - 10) + BODY[10:] + b"\r\n0\r\n\r\n"
MAX_BODY_BYTES = 10_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    write_factories(folder)
    config = folder / "config.yml"
    config.write_text(
        f"max_body_bytes: {MAX_BODY_BYTES}\nport: 0\n"
        "models: [{path: 'serving_factories.py:twice', name: m, devices: 'cpu:0'}]\n"
    )
    with serving(config) as server:
        yield server


class Connection:
    """A raw connection to the server."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(20)
        self.data = b""

    def send(self, data):
        with contextlib.suppress(ConnectionError):  # the server may have answered and closed already
            self.socket.sendall(data)

    def statuses(self):
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", self.data)]

    def receive_answers(self, count):
        """Receive until so many answers have come in full (100 Continue is one)."""
        while len(self.statuses()) < count or not self._is_whole():
            part = self.socket.recv(1 << 16)
            assert part, self.data
            self.data += part
        return self.statuses()

    def _is_whole(self):
        head, found, body = self.data[self.data.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        return bool(found) and len(body) >= (int(length[1]) if length else 0)

    def receive_to_end(self):
        """Receive until the server closes."""
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(1 << 16):
                self.data += part
        return self.statuses()


@pytest.fixture
def connection(server):
    connection = Connection(server.port)
    yield connection
    connection.socket.close()
    assert server.request("GET", "/v2/health/live")[0] == 200


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (INFER, [200]),
        (CHUNKED + CHUNKS, [200]),
        (INFER + LIVE + INFER + INFER + LIVE, [200] * 5),
        (INFER + POST.replace(b"/m/", b"/other/") + LENGTH + b"\r\n" + BODY + LIVE, [200, 404, 200]),
        (INFER.replace(b"POST", b"PUT"), [405]),
        (b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (INFER.replace(b"Host: x", b"Content-Encoding: gzip"), [400]),
        (INFER.replace(b"Host: x", b"Content-Encoding: br"), [400]),
        (INFER.replace(b"Length: %d\r\nContent" % HEAD_BYTES, b"Length: 99999\r\nContent"), [400]),
        (INFER.replace(b"Length: %d\r\nContent" % HEAD_BYTES, b"Length: -1\r\nContent"), [400]),
        (INFER.replace(b"Length: %d\r\nContent" % HEAD_BYTES, b"Length: %s\r\nContent" % (b"9" * 5000)), [400]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (b"GET /v2/models/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_the_connection_stays_open(connection, sent, statuses):
    connection.send(sent)
    assert connection.receive_answers(len(statuses)) == statuses
    connection.data = b""
    connection.send(INFER)
    assert connection.receive_answers(1) == [200]


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (INFER.replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
        (INFER.replace(b"Host: x", b"Connection: close"), [200]),
        (INFER.replace(b"Host: x", b"Connection: close") + INFER, [200]),
        (POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, [400]),
        (POST + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY, [400]),
        (POST + b"Content-Length: -1\r\n\r\n", [400]),
        (POST + b"Content-Length: +5\r\n\r\nabcde", [400]),
        (CHUNKED + b"zz\r\n", [400]),
        (INFER + CHUNKED + b"zz\r\n", [200, 400]),
        (INFER + b"\x00\x01garbage\r\n\r\n", [200]),
        (b"\x00\x01garbage\r\n\r\n", [400]),
        (b"GET /v2/\xff HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (POST + b"X-A: " + b"a" * 70_000, [431]),
        (b"GET /" + b"a" * 70_000, [431]),
        (POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), [413]),
        (CHUNKED + CHUNKS[:-2] + b"a: " + b"b" * 400_000, [431]),
        (CHUNKED + CHUNKS[:-5] + b"1;" + b"b" * 400_000, [431]),
        (CHUNKED + b"%x\r\n" % (MAX_BODY_BYTES + 1) + b"a" * (MAX_BODY_BYTES + 1), [413]),
        (INFER.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c"), [400]),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_the_connection_is_closed(connection, sent, statuses):
    connection.send(sent)
    assert connection.receive_to_end() == statuses


def test_a_body_in_pieces(connection):
    for piece in (CHUNKED, *(CHUNKS[at : at + 7] for at in range(0, len(CHUNKS), 7))):
        connection.send(piece)
    assert connection.receive_answers(1) == [200]


def test_requests_with_the_same_head_have_bodies_of_their_own(connection):
    """The second one is not parsed; nor may what is around it be lost."""
    bodies = [encode_request({"x": np.full((1, 3), value, np.float32)})[1] for value in range(1, 7)]
    requests = [POST + LENGTH + b"\r\n" + body for body in bodies]
    answered = 0
    for sent, count in (
        *((request, 1) for request in requests),
        (LIVE, 1),
        (requests[0] + requests[1], 2),
        (requests[2], 1),
        (requests[3] + LIVE[:7], 1),
        (LIVE[7:], 1),
        (requests[4][:100], 0),
        (requests[4][100:], 1),
        (requests[5], 1),
        (requests[0], 1),
    ):
        connection.data = b""
        connection.send(sent)
        if count:
            assert connection.receive_answers(count) == [200] * count
        answered += count
        if count == 1 and sent in requests:
            value = 2.0 * (requests.index(sent) + 1)
            assert connection.data.endswith(np.full((1, 3), value, np.float32).tobytes())
    assert answered == 15


def test_what_follows_the_same_head_is_read_each_time(connection):
    """Other JSON of the same length, tensors in the JSON, and compressed bodies."""
    other = BODY.replace(b'"FP32"', b'"FP64"')
    plain = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [%d]}]}'
    in_json = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(plain) - 1)
    packed = gzip.compress(BODY)
    compressed = POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    for sent, status in (
        (INFER, 200),
        (POST + LENGTH + b"\r\n" + other, 400),
        (INFER, 200),
        (in_json + plain % 3, 200),
        (in_json + plain % 4, 200),
        (in_json + plain.replace(b"{", b"[") % 4, 400),
        (compressed + packed, 200),
        (compressed + packed, 200),
        (compressed + packed[::-1], 400),
    ):
        connection.data = b""
        connection.send(sent)
        assert connection.receive_answers(1) == [status], connection.data
        if sent == in_json + plain % 4:
            assert b"[8.0]" in connection.data


def test_expect_100_continue(connection):
    connection.send(POST + LENGTH + b"Expect: 100-continue\r\n\r\n")
    assert connection.receive_answers(1) == [100]
    connection.send(BODY)
    assert connection.receive_answers(2) == [100, 200]


def test_a_body_that_is_refused_is_not_asked_for(connection):
    connection.send(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (MAX_BODY_BYTES + 1))
    assert connection.receive_to_end() == [413]


def test_a_client_that_half_closes_gets_its_answer(connection):
    connection.send(INFER)
    connection.socket.shutdown(socket.SHUT_WR)
    assert connection.receive_to_end()[-1] == 200


def test_a_client_that_half_closes_gets_all_its_answers(connection):
    connection.send(INFER * 3)
    connection.socket.shutdown(socket.SHUT_WR)
    assert [status for status in connection.receive_to_end() if status != 100] == [200] * 3


def test_a_pipelined_request_that_is_cut_off_is_told(connection):
    connection.send(INFER + INFER[:-5])
    connection.socket.shutdown(socket.SHUT_WR)
    assert [status for status in connection.receive_to_end() if status != 100] in ([200, 400], [200])


def test_large_answers_of_pipelined_requests(connection):
    head_bytes, body = encode_request({"x": np.ones((3, 400_000), np.float32)})
    head = POST.replace(b"Length: %d" % HEAD_BYTES, b"Length: %d" % head_bytes)
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the server reads on as its answers are taken
        sent = pool.submit(connection.send, request * 4)
        assert connection.receive_answers(4) == [200] * 4
        sent.result()


def test_a_request_that_is_cut_off_is_dropped(connection):
    connection.send(INFER[:-5])
    connection.socket.shutdown(socket.SHUT_WR)
    assert connection.receive_to_end() == []


def test_head_has_no_body(connection):
    connection.send(INFER.replace(b"POST", b"HEAD"))
    connection.send(LIVE)
    while connection.data.count(b"\r\n\r\n") < 2:
        connection.data += connection.socket.recv(1 << 16)
    assert connection.statuses() == [405, 200]
    assert connection.data.endswith(b"\r\n\r\n") and b"error" not in connection.data


def test_errors_have_the_form_of_the_protocol(server):
    for path, status in (("/v2/models/other/infer", 404), ("/nothing", 404)):
        found, headers, body = server.request("POST", path, b"{}")
        assert (found, headers["content-type"]) == (status, "application/json")
        assert body.startswith(b'{"error": "')
