"""What a server does about clients that are not meant well: no token, too much, too slow, or strange."""

import contextlib
import gzip
import json
import select
import socket
import ssl

import httpx
import numpy as np
import pytest
import trustme

from .servers import encode_request, serving
from .serving_models import write_factories
from .test_http import Connection

TOKEN = "c0ffee"
MAX_BODY_BYTES = 1_000_000
MAX_PENDING_BYTES = 3_500_000
MODEL = {"path": "serving_factories.py:twice", "name": "m", "devices": "cpu:0"}
HEAD_BYTES, BODY = encode_request({"x": np.ones((1, 200_000), np.float32)})
POST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer c0ffee\r\n"
LENGTHS = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n" % (HEAD_BYTES, len(BODY))
INFER = POST + LENGTHS + b"\r\n" + BODY
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"

#: The command with shorter times.
HASTY = """
from ascend_parallel.cli import main
from ascend_parallel.serving.http import protocol, server

protocol.READ_TIMEOUT_S = protocol.WRITE_TIMEOUT_S = 0.5
protocol.IDLE_TIMEOUT_S = 1.0
server._SWEEP_S = 0.05
main()
"""


def write_config(folder, **settings):
    write_factories(folder)
    config = folder / "config.yml"
    config.write_text(json.dumps({"port": 0, "max_body_bytes": MAX_BODY_BYTES, "models": [MODEL], **settings}))
    return config


# ---- a server with a token and TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN + "\n")
    cert = authority.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(folder / "key.pem")
    for blob in cert.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    files = {"token_file": "token", "tls_cert": "cert.pem", "tls_key": "key.pem"}
    with serving(write_config(folder, max_pending_bytes=MAX_PENDING_BYTES, **files)) as server:
        yield server


@pytest.fixture(scope="module")
def context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def web(guarded, context):
    with httpx.Client(base_url=f"https://127.0.0.1:{guarded.port}", verify=context) as client:
        yield client


@pytest.fixture
def connect(guarded, context):
    """Return a function that makes a connection by TLS."""
    with contextlib.ExitStack() as stack:

        def connect():
            connection = Connection(guarded.port)
            connection.socket = context.wrap_socket(connection.socket, server_hostname="127.0.0.1")
            stack.enter_context(connection.socket)
            return connection

        yield connect


CLOSED = [
    ("GET", "/v2"),
    ("GET", "/v2/models/m"),
    ("GET", "/v2/models/m/ready"),
    ("GET", "/v2/models/m/versions/1/stats"),
    ("GET", "/v2/models/stats"),
    ("GET", "/metrics"),
    ("GET", "/status"),
    ("GET", "/nothing"),
    ("GET", "/page.js/"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/m/load"),
    ("POST", "/v2/repository/models/m/unload"),
    ("POST", "/v2/models/m/infer"),
    ("POST", "/v2/models/m/versions/1/infer"),
    ("POST", "/v2/models/nothing/infer"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_routes_need_the_token(web, method, path):
    for given in (None, "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, ""):
        response = web.request(method, path, headers={} if given is None else {"authorization": given})
        assert response.status_code == 401, given
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in response.json()["error"] and TOKEN not in response.text
    for scheme in ("Bearer", "bearer"):  # names of schemes have no case
        assert web.request(method, path, headers={"authorization": f"{scheme} {TOKEN}"}).status_code != 401


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/common.js", "/v2/health/live", "/v2/health/ready"])
def test_the_page_and_probes_need_no_token(web, path):
    assert web.get(path).status_code == 200


def test_an_answer_over_tls(connect):
    connection = connect()
    connection.send(INFER * 2)
    assert connection.receive_answers(2) == [200] * 2


def test_what_is_no_tls_gets_no_answer(guarded, web):
    plain = Connection(guarded.port)
    plain.send(LIVE)
    assert plain.receive_to_end() == []
    plain.socket.close()
    assert web.get("/v2/health/live").status_code == 200


def test_who_has_no_token_is_not_asked_for_the_body(connect):
    connection = connect()
    connection.send(POST.replace(b"c0ffee", b"other") + LENGTHS + b"Expect: 100-continue\r\n\r\n")
    assert connection.receive_to_end() == [401]


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/page.css/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"])
def test_no_url_is_a_path(web, path):
    headers = {"authorization": f"Bearer {TOKEN}"}
    for url in (path, f"/v2/models{path}", f"/v2/repository/models{path}/load", f"/v2/models{path}/infer"):
        for method in ("GET", "POST"):
            response = web.request(method, url, headers=headers)
            assert response.status_code in (404, 405) and "root:" not in response.text


def test_all_bodies_together_are_bounded(connect):
    """Four bodies fit; the fifth is refused before it is sent, and taken once one of the four is answered."""
    waiting = [connect() for _ in range(4)]
    for connection in waiting:
        connection.send(POST + LENGTHS + b"Expect: 100-continue\r\n\r\n")
        assert connection.receive_answers(1) == [100]
    refused = connect()
    refused.send(POST + LENGTHS + b"Expect: 100-continue\r\n\r\n")
    assert refused.receive_to_end() == [503]
    assert b"retry-after: 1\r\n" in refused.data and b"max_pending_bytes" in refused.data
    patient = connect()
    for request in (INFER, POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"):
        patient.send(request)  # what it sends is read, so that the connection stays
        assert patient.receive_answers(1) == [503]
        patient.data = b""
    waiting[0].send(BODY)
    assert waiting[0].receive_answers(2) == [100, 200]
    patient.send(INFER)
    assert patient.receive_answers(1) == [200]
    for connection in waiting[1:3]:
        connection.send(BODY)
        assert connection.receive_answers(2) == [100, 200]


def test_bodies_of_clients_that_are_gone_do_not_count(connect):
    for _ in range(10):
        connection = connect()
        connection.send(POST + LENGTHS + b"Expect: 100-continue\r\n\r\n")
        assert connection.receive_answers(1) == [100]
        connection.send(BODY[:-1])
        connection.socket.close()
    last = connect()
    last.send(INFER)
    assert last.receive_answers(1) == [200]


# ---- a server whose times are short


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hasty")
    program = folder / "hasty.py"
    program.write_text(HASTY)
    with serving(write_config(folder), program=[str(program)]) as server:
        yield server


@pytest.fixture
def connection(hasty):
    connection = Connection(hasty.port)
    yield connection
    connection.socket.close()
    assert hasty.request("GET", "/v2/health/live")[0] == 200


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (INFER[:10], [408]),
        (POST, [408]),
        (INFER[:-10], [408]),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", [408]),
        (LIVE + INFER[:-10], [200, 408]),
        (INFER + INFER[:300], [200, 408]),
        (b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", []),
        (b"", []),
        (LIVE, [200]),
        (INFER, [200]),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value),
)
def test_clients_that_are_slow_or_idle_are_sent_away(connection, sent, statuses):
    connection.send(sent)
    assert connection.receive_to_end() == statuses


@pytest.mark.parametrize("start", [0, len(INFER) - 1000], ids=["head", "body"])
def test_a_byte_now_and_then_is_too_slow(connection, start):
    connection.send(INFER[:start])
    rest = iter(INFER[start:])
    while not select.select([connection.socket], [], [], 0.02)[0]:
        connection.send(bytes([next(rest)]))
    assert connection.receive_to_end() == [408]


def test_a_client_that_takes_no_answers_is_dropped(connection, hasty):
    sent = 0
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    with pytest.raises(ConnectionError):  # the server has read no more, and dropped it in the end
        while sent < 300 * len(INFER):
            sent += connection.socket.send(INFER)
    assert sent < 100 * len(INFER)
    x = np.ones((2, 3), np.float32)
    assert (hasty.infer("m", x=x)["y"] == 2 * x).all()


def infer_json(server, body):
    status, _, answer = server.request("POST", "/v2/models/m/infer", body)
    assert len(answer) < 10_000
    return status, json.loads(answer)["error"]


def input_of(shape, **more):
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, **more}]}).encode()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[" * 900_000, "recursion limit"),
        (b'{"inputs":' * 50_000, "recursion limit"),
        (b"1" * 900_000, "out of range"),
        (b'"' + b"a" * 900_000 + b'"', "the body is 'aaa"),
        (b"[" + b"[]," * 300_000 + b"[]]", "the body is [[]"),
        (input_of([1]).replace(b'"x"', b'"' + b"n" * 900_000 + b'"'), "nnn"),
        (input_of([1] * 100_000, data=[1]), "up to 32 whole numbers"),
        (input_of([1 << 62, 1 << 62, 1 << 62], data=[1]), "which is too large"),
        (input_of([0, 1 << 62, 1 << 62], data=[]), "which is too large"),
        (input_of([0, 1 << 62, 1 << 62], parameters={"binary_data_size": 0}), "which is too large"),
        (input_of([1 << 40, 4], parameters={"binary_data_size": 0}), "binary_data_size is 0"),
        (input_of([1], parameters={"binary_data_size": 4, "a": 1}), "0 bytes follow"),
        (input_of([1], data=[1])[:-1] + b', "parameters": {"timeout": 1' + b"0" * 400 + b"}}", "microseconds"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_strange_json_is_refused(hasty, body, error):
    status, text = infer_json(hasty, body)
    assert status == 400 and error in text


def test_bodies_are_bounded(hasty):
    packed = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    for body, headers in ((b"a" * (MAX_BODY_BYTES + 1), {}), (packed, {"Content-Encoding": "gzip"})):
        status, _, answer = hasty.request("POST", "/v2/models/m/infer", body, headers)
        assert status == 413 and "max_body_bytes" in json.loads(answer)["error"]
    status, _, answer = hasty.request("POST", "/v2/repository/index", b" " * ((1 << 20) + 1))
    assert status == 413 and "larger than" in json.loads(answer)["error"]


def test_other_hosts_do_not_reach_a_server_unless_told(hasty):
    with open("/proc/net/tcp") as file:
        rows = [line.split()[1:4] for line in file]
    listening = [local for local, _, state in rows if state == "0A" and local.endswith(f":{hasty.port:04X}")]
    assert listening == [f"0100007F:{hasty.port:04X}"]
