"""Clients that go away, workers that die, and the end of the server."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time

import httpx

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.diffusion.model_folder import MODELS, find_models
from ascend_parallel.serving.image_config import ImageConfig
from ascend_parallel.serving.images.image_model import ImageModel
from ascend_parallel.serving.repository import Repository

from ..servers import serving
from .conftest import TINY
from .pictures import assert_same, metric, read_png

PROMPT = "a purple ring on white"
LONG = {"prompt": PROMPT, "model": "tiny", "stream": True, "progress": True, "steps": 999, "seed": 1}
PATH = "/v1/images/generations"
WAIT_S = 20.0


def wait_until(condition):
    """Ask again and again: what happens in another process has no event here."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def read_data(lines):
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def drawing(http):
    names = ("ascend_parallel_image_drawing_picture_count", "ascend_parallel_image_waiting_picture_count")
    return sum(metric(http, name, model="tiny") for name in names)


def canceled(http):
    return metric(http, "ascend_parallel_image_picture_failure_total", model="tiny", reason="canceled")


def test_the_pictures_of_a_client_that_goes_away_are_given_up(server, http):
    before = canceled(http)
    with httpx.Client(base_url=server.url) as other, other.stream("POST", PATH, json={**LONG, "n": 3}) as response:
        lines = response.iter_lines()  # which would close the response if nobody held it
        next(lines)
        assert drawing(http) == 3
    wait_until(lambda: drawing(http) == 0)
    assert canceled(http) == before + 3
    steps = metric(http, "ascend_parallel_image_step_total", model="tiny")
    http.post(PATH, json={"prompt": PROMPT, "steps": 1}).raise_for_status()
    assert metric(http, "ascend_parallel_image_step_total", model="tiny") == steps + 1  # of this one


def test_a_client_that_waits_for_the_whole_answer_and_goes_away(server, http):
    before = canceled(http)
    body = json.dumps({"prompt": PROMPT, "steps": 999}).encode()
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: drawing(http) == 1)
    wait_until(lambda: drawing(http) == 0)
    assert canceled(http) == before + 1


@contextlib.contextmanager
def serving_tiny(folder, settings=""):
    config = folder / "config.yml"
    image = f"{{name: tiny, folder: {TINY}, devices: 'cpu:0,1', engine_options: {{threads: 1}}, guidance_scale: 4,"
    config.write_text(f"{settings}\nimages: [{image} max_steps: 999}}]\n")
    with serving(config) as server:
        yield server


def test_a_worker_that_is_killed_costs_no_picture_nor_does_the_end_of_the_server(tmp_path, draw_by_example):
    with serving_tiny(tmp_path) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        with http.stream("POST", PATH, json={**LONG, "steps": 300}) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(server.workers()[0], signal.SIGKILL)
            last = read_data(lines)[-1]
        assert last["type"] == "image_generation.completed", last
        expected = draw_by_example(PROMPT, 1, steps=300)
        assert_same(read_png(last["b64_json"]), expected)
        wait_until(lambda: http.get("/v2/health/ready").status_code == 200)
        with http.stream("POST", PATH, json={**LONG, "steps": 300}) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            last = read_data(lines)[-1]
        assert_same(read_png(last["b64_json"]), expected)
        assert server.end() == 0
    assert not [line for line in server.lines if "Traceback" in line], "\n".join(server.lines)


def test_what_is_not_complete_when_the_server_ends_is_told(tmp_path):
    with serving_tiny(tmp_path, "drain_timeout_s: 0.6") as server:
        with httpx.stream("POST", f"{server.url}{PATH}", json={**LONG, "n": 4}, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            last = read_data(lines)[-1]
        assert last["error"]["message"] == "the server has ended before the pictures were complete"
        assert last["error"]["code"] == "server_overloaded"
        assert server.end() == 0


SLOW = """
import time
from pathlib import Path

def make(device):
    Path({begun!r}).touch()
    time.sleep(60)
"""


def test_an_end_during_the_load_does_not_wait_for_it(tmp_path):
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(SLOW.format(begun=str(begun)))
    runner = ParallelPredictUtils(dict.fromkeys(MODELS, f"{tmp_path / 'slow.py'}:make"), devices="cpu:0")
    model = ImageModel(ImageConfig(folder=str(TINY)), find_models(TINY, "onnxruntime"), runner)

    async def load_and_end():
        repository = Repository(list(model.models), lambda name: [], 0.0)
        loading = asyncio.ensure_future(repository.load_all())
        await asyncio.to_thread(wait_until, begun.exists)
        loading.cancel()
        await asyncio.wait([loading])
        await repository.close(0.0)

    asyncio.run(asyncio.wait_for(load_and_end(), WAIT_S))
    assert [part.state for part in model.models] == ["UNAVAILABLE"] * 3
