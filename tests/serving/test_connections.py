"""A server that has as many connections as it takes, or few descriptors left, over real sockets."""

import contextlib
import os
import signal
import ssl

import numpy as np
import pytest
import trustme

from .servers import encode_request, serving
from .test_faults import wait_until
from .test_http import INFER, LIVE, Connection
from .test_safety import write_config

HEAD_BYTES, BODY = encode_request({"x": np.ones((1, 200_000), np.float32)})
LENGTHS = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n" % (HEAD_BYTES, len(BODY))
LARGE = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n" + LENGTHS + b"\r\n" + BODY
MAX_CONNECTIONS = 3
REFUSED = "new connections are refused"

#: The command with few descriptors.
FEW_DESCRIPTORS = """
import resource

from ascend_parallel.cli import main

resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
main()
"""


@pytest.fixture(scope="module", params=["http", "https"])
def connect(request, tmp_path_factory):
    """Return a function that connects to a server with a limit."""
    folder = tmp_path_factory.mktemp("connections")
    files, wrap = {}, lambda plain: plain
    if request.param == "https":
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
        files = {"tls_cert": "both.pem", "tls_key": "both.pem"}
        context = ssl.create_default_context()
        authority.configure_trust(context)
        wrap = lambda plain: context.wrap_socket(plain, server_hostname="127.0.0.1")  # noqa: E731
    with serving(write_config(folder, max_connections=MAX_CONNECTIONS, **files)) as server:

        def connect():
            connection = Connection(server.port)
            connection.socket = wrap(connection.socket)
            return connection

        connect.server = server
        yield connect


def ask(connection, request):
    """Send a request; return the status of its answer."""
    connection.data = b""
    connection.send(request)
    return connection.receive_answers(1)[0]


def test_connections_beyond_the_limit_are_told_so(connect):
    with contextlib.ExitStack() as stack:
        opened = [connect() for _ in range(MAX_CONNECTIONS)]
        for connection in opened:
            stack.enter_context(connection.socket)
            assert ask(connection, LIVE) == 200
        for request in (LIVE, LARGE, b""):
            refused = connect()
            stack.enter_context(refused.socket)
            refused.socket.sendall(request)  # not broken off, so that clients come to read the answer
            assert refused.receive_to_end() == [503]
            assert b"\r\nretry-after: 1\r\n" in refused.data and b"max_connections" in refused.data
        for connection in opened:
            assert ask(connection, INFER) == 200
        opened[0].socket.close()
        wait_until(lambda: is_taken(connect()), "a connection was closed, and yet no other is taken")
    log = "\n".join(connect.server.lines)
    assert log.count(REFUSED) == 1 and "has 3 connections already, its max_connections; 3 are open" in log
    assert "Traceback" not in log


def is_taken(connection):
    with connection.socket:
        connection.send(LIVE)
        return connection.receive_answers(1) == [200]


def test_workers_are_replaced_however_many_connections_there_are(tmp_path):
    with (
        serving(write_config(tmp_path), program=("-c", FEW_DESCRIPTORS)) as server,
        contextlib.ExitStack() as stack,
    ):
        connections = [Connection(server.port) for _ in range(200)]
        for connection in connections:
            stack.enter_context(connection.socket)
        for connection in connections:
            connection.send(INFER)
        statuses = [connection.receive_answers(1) for connection in connections]
        taken = [connection for connection, status in zip(connections, statuses, strict=True) if status == [200]]
        assert 50 < len(taken) < 100 and statuses.count([503]) == len(connections) - len(taken)
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: any("is ready again" in line for line in server.lines), server.lines)
        assert [ask(connection, INFER) for connection in taken] == [200] * len(taken)
        assert [line for line in server.lines if REFUSED in line and "few descriptors left, of 128" in line]
        assert not [line for line in server.lines if "could not be started" in line or "Traceback" in line]
