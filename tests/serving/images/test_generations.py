"""POST /v1/images/generations with OpenAI's own client: the pictures, and what it tells of bad requests."""

import openai
import pytest
from shapes import recognise

from ..servers import serving
from .conftest import TINY
from .pictures import assert_same, metric, read_png

PROMPT = "a red circle on white"


def test_the_picture_is_that_of_the_example(client, draw_by_example):
    answer = client.images.generate(model="tiny", prompt=PROMPT, size="64x64", extra_body={"seed": 5})
    (picture,) = answer.data
    pixels = read_png(picture.b64_json)
    assert_same(pixels, draw_by_example(PROMPT, 5))
    assert recognise(pixels.astype("uint8")).prompt == PROMPT
    assert (picture.url, picture.seed, answer.size, answer.output_format) == (None, 5, "64x64", "png")
    assert answer.usage.input_tokens == answer.usage.total_tokens > 4


def test_without_a_model_and_a_seed_the_first_model_draws_something_each_time_else(client):
    first, second = (client.images.generate(prompt=PROMPT).data[0] for _ in range(2))
    assert first.seed != second.seed and first.b64_json != second.b64_json
    again = client.images.generate(prompt=PROMPT, extra_body={"seed": first.seed}).data[0]
    assert_same(read_png(again.b64_json), read_png(first.b64_json))


def test_several_pictures_have_one_seed_after_the_other(client, draw_by_example):
    answer = client.images.generate(model="tiny", prompt=PROMPT, n=3, extra_body={"seed": 7, "steps": 10})
    assert [picture.seed for picture in answer.data] == [7, 8, 9]
    for picture in answer.data:
        assert_same(read_png(picture.b64_json), draw_by_example(PROMPT, picture.seed, steps=10))


@pytest.mark.parametrize(
    ("extra", "same"),
    [
        ({"guidance_scale": 1}, {"guidance": 1.0}),
        ({"guidance_scale": 7.5, "negative_prompt": "a blue square"}, {"guidance": 7.5, "negative": "a blue square"}),
        ({"steps": 1}, {"steps": 1}),
    ],
    ids=["no guidance", "a negative prompt", "one step"],
)
def test_what_the_protocol_does_not_have_is_in_extra_body(client, draw_by_example, extra, same):
    answer = client.images.generate(model="tiny", prompt=PROMPT, extra_body={"seed": 3, **extra})
    assert_same(read_png(answer.data[0].b64_json), draw_by_example(PROMPT, 3, **same))


def test_a_picture_by_url(client, http, draw_by_example):
    answer = client.images.generate(model="tiny", prompt=PROMPT, response_format="url", extra_body={"seed": 5})
    url = answer.data[0].url
    assert url.startswith(f"{http.base_url}/v1/images/pictures/") and url.endswith(".png")
    response = http.get(url)
    assert response.headers["content-type"] == "image/png"
    assert_same(read_png(response.content), draw_by_example(PROMPT, 5))
    other = http.get(url.replace(".png", "x.png"))
    assert other.status_code == 404
    assert other.json()["error"]["message"].startswith("there is no such picture, or not any more")


def test_other_sizes_where_the_models_leave_them_open(client):
    for size, shape in {"auto": (64, 64, 3), "128x64": (64, 128, 3), "64x128": (128, 64, 3)}.items():
        answer = client.images.generate(model="open", prompt=PROMPT, size=size, extra_body={"steps": 2})
        assert read_png(answer.data[0].b64_json).shape == shape
        assert answer.size == ("64x64" if size == "auto" else size)


def test_models_of_a_fixed_batch_draw_the_same(client):
    """A batch has rows at one time step only, and is padded where it is not full."""
    drawn = {}
    for model in ("open", "fixed"):
        answer = client.images.generate(model=model, prompt=PROMPT, n=3, extra_body={"seed": 1, "steps": 3})
        drawn[model] = [read_png(picture.b64_json) for picture in answer.data]
    for fixed, open_batch in zip(drawn["fixed"], drawn["open"], strict=True):
        assert_same(fixed, open_batch)


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny", "single", "open", "fixed", "small"]
    model = client.models.retrieve("open")
    assert (model.object, model.owned_by, model.sizes) == ("model", "ascend_parallel", ["64x64", "128x64", "64x128"])
    with pytest.raises(openai.NotFoundError, match="there is no image model 'absent'; the image models are: tiny, "):
        client.models.retrieve("absent")


REFUSED = {
    "no prompt": ({}, 400, "prompt", "missing_required_parameter", "prompt is missing: it says what to draw"),
    "empty prompt": ({"prompt": ""}, 400, "prompt", "invalid_value", "prompt is ''; expected text that is not empty"),
    "prompt a number": ({"prompt": 7}, 400, "prompt", "invalid_value", "prompt is 7; expected text that is not empty"),
    "prompt of many characters": (
        {"prompt": "x" * 4001},
        *(400, "prompt", "string_above_max_length", "prompt has 4001 characters; expected at most 4000"),
    ),
    "prompt of many tokens": (
        {"prompt": "red " * 76},
        *(400, "prompt", "string_above_max_length", "prompt has 76 tokens; the model takes at most 75: shorten it"),
    ),
    "long negative prompt": (
        {"negative_prompt": "red " * 90},
        *(400, "negative_prompt", "string_above_max_length", "negative_prompt has 90 tokens; the model takes at most"),
    ),
    "n 0": ({"n": 0}, 400, "n", "invalid_value", "n is 0; expected a whole number, at least 1, or null"),
    "n 11": ({"n": 11}, 400, "n", "invalid_value", "n is 11; expected at most 10"),
    "n text": ({"n": "1"}, 400, "n", "invalid_value", "n is '1'; expected a whole number, at least 1, or null"),
    "size": ({"size": "512x512"}, 400, "size", "invalid_value", "size is '512x512'; expected auto or 64x64"),
    "steps": ({"steps": 1000}, 400, "steps", "invalid_value", "steps is 1000; expected at most 999"),
    "guidance": (
        {"guidance_scale": 1e308},
        *(400, "guidance_scale", "invalid_value", "guidance_scale is 1e+308; expected a number from 0 to 100 or null"),
    ),
    "seed": ({"seed": -1}, 400, "seed", "invalid_value", "seed is -1; expected a whole number from 0 to "),
    "format": (
        {"response_format": "jpeg"},
        *(400, "response_format", "invalid_value", "response_format is 'jpeg'; expected b64_json or url or null"),
    ),
    "output format": (
        {"output_format": "webp"},
        *(400, "output_format", "invalid_value", "output_format is 'webp'; expected png or null"),
    ),
    "quality": (
        {"quality": "high"},
        *(
            400,
            "quality",
            "unknown_parameter",
            "quality is not a field that this server takes; expected one of ",
        ),
    ),
    "misspelt": (
        {"sede": 1},
        *(400, "sede", "unknown_parameter", "sede is not a field that this server takes; did you mean 'seed'?"),
    ),
    "partial images": ({"partial_images": 2}, 400, "partial_images", None, "partial_images goes with stream: true"),
    "stream by url": (
        {"stream": True, "response_format": "url"},
        *(400, "response_format", None, "a stream has its pictures in b64_json; leave response_format out"),
    ),
    "model": (
        {"model": "dall-e-3"},
        *(404, "model", "model_not_found", "there is no image model 'dall-e-3'; the image models are: tiny, single"),
    ),
}


@pytest.mark.parametrize(("body", "status", "param", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_requests_are_told_in_the_protocol_s_form(http, body, status, param, code, text):
    given = body if "prompt" in body or body == {} else {"prompt": PROMPT, **body}
    response = http.post("/v1/images/generations", json=given)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    error = response.json()["error"]
    assert error["message"].startswith(text), error
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


def test_the_client_raises_what_it_raises_for_openai(client):
    with pytest.raises(openai.BadRequestError, match="n is 0; expected a whole number") as caught:
        client.images.generate(prompt=PROMPT, n=0)
    assert (caught.value.param, caught.value.code) == ("n", "invalid_value")
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt=PROMPT, model="dall-e-3")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "text"),
    [
        ("POST", "/v1/images/generations", b"{", 400, "the body is not JSON"),
        ("POST", "/v1/images/generations", b"[]", 400, "the body is no JSON object"),
        ("POST", "/v1/images/generations", b" " * (1 << 21), 413, "the body is larger than"),
        ("GET", "/v1/images/generations", b"", 405, "Method Not Allowed"),
        ("POST", "/v1/chat/completions", b"{}", 404, "there is no route /v1/chat/completions"),
    ],
)
def test_other_errors_have_the_same_form(http, method, path, content, status, text):
    response = http.request(method, path, content=content)
    assert response.status_code == status
    assert response.json()["error"]["message"].startswith(text)
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_nothing_of_this_reached_a_worker_as_a_failure(http, server):
    assert metric(http, "ascend_parallel_image_picture_failure_total", model="tiny", reason="error") == 0
    assert not [line for line in server.lines if "Traceback" in line], "\n".join(server.lines)


def test_the_three_models_are_served_too_and_stay(http):
    about = http.get("/v2/models/tiny.unet").json()
    assert [tensor["name"] for tensor in about["inputs"]] == ["sample", "timestep", "encoder_hidden_states"]
    response = http.post("/v2/repository/models/tiny.unet/unload")
    assert (response.status_code, response.json()["error"]) == (
        400,
        "model 'tiny.unet' is a part of 'tiny', which stays as long as the server runs",
    )
    assert http.get("/v2/health/ready").status_code == 200


def test_a_token(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("open-sesame-0123456789\n")
    secret.chmod(0o600)
    config = tmp_path / "config.yml"
    config.write_text(f"token_file: token\nimages: [{{folder: {TINY}, devices: 'cpu:0', steps: 2}}]\n")
    with serving(config) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="no valid token") as caught:
                client.images.generate(prompt=PROMPT)
            assert caught.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="open-sesame-0123456789", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            url = client.images.generate(prompt=PROMPT, response_format="url").data[0].url
        status, _headers, png = server.request("GET", url.removeprefix(server.url))  # its name is secret enough
        assert status == 200 and read_png(png).shape == (64, 64, 3)
