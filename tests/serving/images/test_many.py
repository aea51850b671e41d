"""Many clients at once: each gets its own picture, and their steps share batches."""

import asyncio

import httpx
import openai
import pytest

from .pictures import assert_same, metric, read_png

PROMPTS = ["a red circle on white", "a blue square on pink", "a yellow cross on gray", "a purple ring on white"]
ROWS, BATCHES = "ascend_parallel_inference_count_total", "ascend_parallel_inference_exec_count_total"


def jobs(count):
    """Return different requests: prompt, seed, steps, guidance."""
    return [(PROMPTS[i % 4], i, 10 + 3 * (i % 5), (1.0, 4.0)[i % 3 > 0]) for i in range(count)]


async def draw_at_once(server, model, requests):
    """Send all requests at the same time, each by a client of its own; return the pictures."""

    async def draw(prompt, seed, steps, guidance):
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            extra = {"seed": seed, "steps": steps, "guidance_scale": guidance}
            answer = await client.images.generate(model=model, prompt=prompt, extra_body=extra)
            return read_png(answer.data[0].b64_json)

    return await asyncio.gather(*[draw(*request) for request in requests])


@pytest.mark.parametrize("model", ["tiny", "single"])
def test_each_gets_its_own_picture(server, http, draw_by_example, model):
    before = {name: metric(http, name, model=f"{model}.unet") for name in (ROWS, BATCHES)}
    requests = jobs(20)
    pictures = asyncio.run(draw_at_once(server, model, requests))
    for (prompt, seed, steps, guidance), picture in zip(requests, pictures, strict=True):
        assert_same(picture, draw_by_example(prompt, seed, steps=steps, guidance=guidance))
    rows, batches = (metric(http, name, model=f"{model}.unet") - before[name] for name in (ROWS, BATCHES))
    assert rows == sum(steps * (2 if guidance > 1 else 1) for _, _, steps, guidance in requests)
    if model == "tiny":  # rows at different steps share batches: those of one picture are two at most
        assert rows / batches > 2
    else:  # no more than the two rows of a picture at a step, but where pictures are at the same step by chance
        assert rows / batches < 3


def test_the_steps_of_pictures_are_counted(http):
    name = "ascend_parallel_image_step_total"
    before = metric(http, name, model="tiny")
    http.post("/v1/images/generations", json={"prompt": PROMPTS[0], "n": 2, "steps": 7}).raise_for_status()
    assert metric(http, name, model="tiny") == before + 14
    assert metric(http, "ascend_parallel_image_picture_seconds_count", model="tiny") == metric(
        http, "ascend_parallel_image_picture_success_total", model="tiny"
    )


def test_too_many_pictures_are_refused_at_once(server, http):
    """The model "small" takes two."""
    body = {"model": "small", "prompt": PROMPTS[0], "n": 2, "steps": 999, "stream": True, "progress": True}
    with http.stream("POST", "/v1/images/generations", json=body) as response:
        lines = response.iter_lines()
        next(lines)  # both are being drawn, or one waits for it
        with httpx.Client(base_url=server.url) as other:
            refused = other.post("/v1/images/generations", json={"model": "small", "prompt": PROMPTS[0]})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"] == {
        "message": "the queue is full: 2 pictures wait or are being drawn, at most 2 may; try again later",
        "type": "server_error",
        "param": None,
        "code": "server_overloaded",
    }


def test_a_picture_that_takes_too_long_is_not_asked_for_again(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError, match=r"not answered within 1\.5 s") as caught:
            client.images.generate(model="small", prompt=PROMPTS[0], n=2, extra_body={"steps": 999})
    assert caught.value.status_code == 504 and caught.value.code == "timeout"
