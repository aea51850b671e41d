"""Paddle Serving 0.9.0 and ascend_parallel: the services of examples/paddle_serving in both, in one run.

Each service is started from the same files: in the real Paddle Serving, whose ops run as processes and then as threads,
with ONNX Runtime in place of Paddle's predictor; and here, from what ascend-parallel migrate makes of its config.yml.
All are asked the same by HTTP and by Paddle Serving's own client over gRPC, and the answers are compared; then by 16
clients at once that ask different things. Then wrk sends one request over 16 connections; in every round each server
takes its turn. The ratio is the median of those of the rounds.

    make bench-paddle-serving      installs what it needs and prints the table
    SERVE_PADDLE_PYTHON=.../python benchmarks/paddle_serving.py [--examples imdb_model_ensemble] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from servers.process import find_port
from sides.options import choose

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples" / "paddle_serving"
SERVERS = Path(__file__).with_name("servers")
CLIENTS = 16
START_S, STOP_S, ANSWER_S = 60.0, 20.0, 30.0
#: How often each client asks while answers are compared.
TIMES = 10
OURS, PROCESSES, THREADS = "ascend_parallel", "Paddle Serving, processes", "Paddle Serving, threads"


def _numbers(start: float, count: int) -> str:
    return ",".join(f"{(start * 7 + number) % 11 / 10:.1f}" for number in range(count))


#: Example -> what clients ask; the last of imdb_model_ensemble has no words, so its models are skipped.
FEEDS: dict[str, list[dict[str, str]]] = {
    "uci_housing": [{"x": _numbers(n, 13)} for n in range(15)] + [{"x": f"{_numbers(1, 13)};{_numbers(2, 13)}"}],
    "imdb_model_ensemble": [{"words": f"film {n} was good and {n * n} bad"} for n in range(15)] + [{"words": ""}],
    "auto_batching": [{"x": _numbers(n, 64)} for n in range(16)],
}
NAMES = {"uci_housing": "uci", "imdb_model_ensemble": "imdb", "auto_batching": "mlp"}


class Running(NamedTuple):
    """A server that answers.

    Attributes:
        title: which server.
        url: where it answers by HTTP.
        http_port, grpc_port: its ports.
    """

    title: str
    url: str
    http_port: int
    grpc_port: int

    def ask(self, feed: dict[str, str]) -> dict[str, Any]:
        """Return the answer to one request by HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=ANSWER_S)
        try:
            connection.request("POST", self.url.partition(str(self.http_port))[2], body_of(feed))
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return {
            "err_no": answer["err_no"],
            "err_msg": answer["err_msg"],
            "values": dict(zip(answer["key"], answer["value"], strict=True)),
        }


def body_of(feed: dict[str, str]) -> bytes:
    """Return a request."""
    return json.dumps({"key": list(feed), "value": list(feed.values()), "logid": 7}).encode()


# ---- the servers


@contextlib.contextmanager
def serving(title: str, example: str, folder: Path, python: str) -> Iterator[Running]:
    """Run a server for an example, whose files are copied below a folder."""
    ports = find_port(), find_port()
    where = folder / title.replace(", ", "-").replace(" ", "_")
    shutil.copytree(folder / "models" / example, where)
    config = where / "config.yml"
    text = re.sub(r"http_port: \d+", f"http_port: {ports[0]}", config.read_text())
    text = re.sub(r"rpc_port: \d+", f"rpc_port: {ports[1]}", text)
    config.write_text(text.replace("is_thread_op: False", f"is_thread_op: {title == THREADS}"))
    command = [python, str(SERVERS / "paddle_on_onnx.py"), "web_service.py"] if title != OURS else migrated(where)
    running = Running(title, f"http://127.0.0.1:{ports[0]}/{NAMES[example]}/prediction", *ports)
    with tempfile.TemporaryDirectory(prefix="ps-") as temporary, (where / "log").open("wb") as log:
        environ = {**environment(), "TMPDIR": temporary}  # where Paddle Serving leaves files; sockets need short paths
        process = subprocess.Popen(command, cwd=where, stdout=log, stderr=log, env=environ, start_new_session=True)
        try:
            wait(running, process, FEEDS[example][0], where / "log")
            yield running
        finally:
            stop(process)


def migrated(where: Path) -> list[str]:
    """Write our configuration; return the command that serves it."""
    ours = [sys.executable, "-m", "ascend_parallel"]
    options = ["config.yml", "--web-service", "web_service.py", "-o", "serve.yml"]
    subprocess.run(
        [*ours, "migrate", "paddle-serving", *options],
        cwd=where,
        env=environment(),
        check=True,
        capture_output=True,
    )
    return [*ours, "serve", "serve.yml"]


def environment() -> dict[str, str]:
    """Return the variables that a server gets."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def wait(running: Running, process: subprocess.Popen[bytes], feed: dict[str, str], log: Path) -> None:
    """Wait until a server answers."""
    end_s = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            if running.ask(feed)["err_no"] == 0:
                return
        if process.poll() is not None or time.monotonic() > end_s:
            sys.exit(f"{running.title} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---- what is measured


def ask_by_client(running: Running, feeds: list[dict[str, str]], python: str, folder: Path) -> list[dict[str, Any]]:
    """Return the answers that Paddle Serving's own client gets; it writes its log to ``folder``."""
    done = subprocess.run(
        [python, str(SERVERS / "paddle_client.py"), str(running.grpc_port)],
        cwd=folder,
        input=json.dumps(feeds),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=True,
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def count_wrong(running: Running, feeds: list[dict[str, str]], expected: list[dict[str, Any]]) -> int:
    """Return how many answers are others than they were one by one, while 16 clients ask at once."""

    def ask(client: int) -> int:
        order = [(client + step) % len(feeds) for step in range(TIMES)]
        return sum(running.ask(feeds[number]) != expected[number] for number in order)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(ask, range(CLIENTS)))


def measure(running: Running, feed: dict[str, str], seconds: int, folder: Path) -> float:
    """Return requests a second over 16 connections, by wrk."""
    body, script = folder / "body", folder / "request.lua"
    body.write_bytes(body_of(feed))
    script.write_text(f'wrk.method = "POST"\nlocal file = io.open("{body}", "rb")\nwrk.body = file:read("*a")\n')
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", f"-s{script}", running.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + START_S)
    failed = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if failed or found is None:
        sys.exit(f"{running.title}: {failed[0] if failed else done.stdout}")
    return float(found[1])


def compare(example: str, arguments: argparse.Namespace, folder: Path) -> list[list[str]]:
    """Return the rows of the table for one example."""
    feeds = FEEDS[example]
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serving(title, example, folder, arguments.python))
            for title in (OURS, PROCESSES, THREADS)
        ]
        one_by_one = [[server.ask(feed) for feed in feeds] for server in servers]
        by_client = [ask_by_client(server, feeds, arguments.python, folder) for server in servers]
        if any(answers != one_by_one[0] for answers in [*one_by_one, *by_client]):
            sys.exit(f"{example}: the servers' answers differ: {[*one_by_one, *by_client]}")
        wrong = [count_wrong(server, feeds, one_by_one[0]) for server in servers]
        rates = [
            [measure(server, feeds[0], arguments.seconds, folder) for server in servers]
            for _ in range(arguments.rounds)
        ]
    rows = []
    for number, server in enumerate(servers):
        rate = statistics.median(each[number] for each in rates)
        ratio = statistics.median(each[0] / each[number] for each in rates)
        cells = [f"{rate:,.0f}", "" if number == 0 else f"{ratio:.1f}", f"{wrong[number]} of {CLIENTS * TIMES}"]
        rows.append([example, server.title, *cells])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", default=",".join(FEEDS), help="some of %(default)s; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--python", default=os.environ.get("SERVE_PADDLE_PYTHON"), help="of Paddle Serving's venv")
    arguments = parser.parse_args()
    examples = choose(parser, "--examples", arguments.examples, FEEDS)
    if not arguments.python:
        sys.exit("SERVE_PADDLE_PYTHON names no Python with Paddle Serving; make bench-paddle-serving installs one")
    print(
        "| service | server | requests/s | ascend_parallel, times the server | wrong answers |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="paddle-serving-") as folder:
        shutil.copytree(EXAMPLES, Path(folder, "models"))
        subprocess.run([sys.executable, "make_models.py"], cwd=Path(folder, "models"), check=True)
        for example in examples:
            Path(folder, example).mkdir()
            shutil.copytree(Path(folder, "models"), Path(folder, example, "models"))
            for row in compare(example, arguments, Path(folder, example)):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
