"""Pictures as server-sent events: OpenAI's events with its own client, and what they look like on the wire."""

import asyncio
import json

import numpy as np
import openai
import pytest

from ascend_parallel.serving.http.image_answer import PictureEvents
from ascend_parallel.serving.images.generation_request import read_request
from ascend_parallel.serving.images.image_model import Generation
from ascend_parallel.serving.images.picture import PictureJob

from .pictures import assert_same, read_png

PROMPT = "a yellow cross on gray"
PATH = "/v1/images/generations"


def read_events(lines):
    """Yield (event's name, data) of an event stream."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        else:
            assert line == "" or line.startswith(": "), line


def stream(http, **body):
    """Return all events of a request as (name, data)."""
    with http.stream("POST", PATH, json={"prompt": PROMPT, "stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(read_events(response.iter_lines()))


def test_the_client_gets_partial_pictures_and_the_whole_one(client, draw_by_example):
    events = client.images.generate(
        model="tiny", prompt=PROMPT, stream=True, partial_images=3, extra_body={"seed": 2, "steps": 20}
    )
    *partial, last = events
    assert [(event.type, event.partial_image_index) for event in partial] == [
        ("image_generation.partial_image", index) for index in range(3)
    ]
    assert [event.step for event in partial] == [5, 10, 15]
    assert last.type == "image_generation.completed"
    expected = draw_by_example(PROMPT, 2, steps=20)
    assert_same(read_png(last.b64_json), expected)
    distances = [abs(read_png(event.b64_json) - expected).mean() for event in partial]
    assert distances == sorted(distances, reverse=True) and distances[0] > 5 * distances[-1] > 0
    assert (last.size, last.output_format, last.background, last.seed) == ("64x64", "png", "opaque", 2)
    assert last.usage.input_tokens > 4


def test_without_partial_pictures_there_is_one_event(client):
    (event,) = client.images.generate(model="tiny", prompt=PROMPT, stream=True)
    assert event.type == "image_generation.completed"


def test_progress_tells_each_step(http):
    events = stream(http, model="tiny", steps=5, progress=True, partial_images=1, seed=1)
    assert [(name, data.get("step")) for name, data in events] == [
        ("image_generation.progress", 1),
        ("image_generation.partial_image", 2),
        ("image_generation.progress", 3),
        ("image_generation.progress", 4),
        ("image_generation.progress", 5),
        ("image_generation.completed", None),
    ]
    assert all(name == data["type"] for name, data in events)


def test_of_more_partial_pictures_than_steps_there_is_one_for_each(http):
    events = stream(http, model="tiny", steps=4, partial_images=10)
    assert [data["step"] for name, data in events if name.endswith("partial_image")] == [1, 2, 3]


def test_several_pictures_are_told_apart(http, draw_by_example):
    events = stream(http, model="tiny", n=2, seed=4, steps=10, partial_images=1)
    complete = {data["index"]: data for name, data in events if name.endswith("completed")}
    assert {index: data["seed"] for index, data in complete.items()} == {0: 4, 1: 5}
    for data in complete.values():
        assert_same(read_png(data["b64_json"]), draw_by_example(PROMPT, data["seed"], steps=10))


def test_what_is_wrong_before_the_first_event_has_its_status(http, client):
    response = http.post(PATH, json={"prompt": PROMPT, "stream": True, "n": 0})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    with pytest.raises(openai.BadRequestError, match="n is 0"):
        client.images.generate(prompt=PROMPT, stream=True, n=0)


def test_what_fails_later_is_the_last_event(http, client):
    """The model "small" has 1.5 s for a request, which takes more steps than that."""
    *some, (name, last) = stream(http, model="small", n=2, steps=999, partial_images=900)
    assert some and {name for name, _ in some} == {"image_generation.partial_image"}
    assert name == last["type"] == "error"
    assert last["error"]["message"] == "the request was not answered within 1.5 s"
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "timeout")
    with pytest.raises(openai.APIError, match=r"not answered within 1\.5 s"):
        extra = {"steps": 999, "partial_images": 900}
        list(client.images.generate(model="small", prompt=PROMPT, n=2, stream=True, extra_body=extra))


class Drawn:
    """Stands in for a model that draws at once; notes when it has done so."""

    def __init__(self):
        self.is_complete = asyncio.Event()

    async def draw(self, generation, taker):
        pixels = np.zeros((8, 8, 3), np.uint8)

        async def preview():
            return pixels

        for step in range(1, 101):
            await taker.take_step(0, step, preview)
        await taker.take_picture(0, pixels)
        self.is_complete.set()


def test_a_picture_does_not_wait_for_a_client_that_takes_nothing():
    """Such a client gets fewer partial pictures, and the whole one."""

    async def run():
        model, sent = Drawn(), []
        job = PictureJob(1, 4.0, (4, 8, 8), None)
        generation = Generation(["", PROMPT], 5, "64x64", 100, [job], 60.0)
        request = read_request({"prompt": PROMPT, "stream": True, "partial_images": 99, "progress": True})

        async def send(message):
            await model.is_complete.wait()  # the client takes nothing before
            sent.append(message)

        await PictureEvents(model, generation, request)({}, asyncio.Event().wait, send)
        return sent

    start, *bodies, end = asyncio.run(asyncio.wait_for(run(), 20))
    assert start["status"] == 200 and end["body"] == b"" and not end["more_body"]
    names = [name for body in bodies for name, _ in read_events(body["body"].decode().splitlines())]
    assert names[-1] == "image_generation.completed"
    assert 10 < len(names) < 30 and set(names[:-1]) == {"image_generation.partial_image"}
