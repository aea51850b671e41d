"""The body of ``POST /v1/images/generations``: OpenAI's fields as far as they have a meaning here, and some more."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ascend_parallel.serving.words import describe_schema, describe_value, find_schema, list_keys, suggest

from .errors import FieldError

#: Characters of a prompt at most: far more than any text encoder has tokens for.
MAX_PROMPT_CHARS = 4000
#: numpy's generators take seeds of any size; JSON's numbers are exact up to here in every client.
MAX_SEED = (1 << 53) - 1
#: Far more than any picture bears; much larger ones have no float32.
MAX_GUIDANCE_SCALE = 100
_UNKNOWN, _MISSING, _TOO_LONG = "extra_forbidden", "missing", "string_too_long"

Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
Count = Annotated[int, Field(ge=1)]


class GenerationRequest(BaseModel):
    """A request for pictures. A field that is null has its default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Annotated[Text, Field(min_length=1)]
    model: str | None = None
    n: Count | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0)] | None = None
    user: str | None = None
    # What OpenAI's protocol does not have: in its Python client, by extra_body.
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    steps: Count | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE)] | None = None
    negative_prompt: Text | None = None
    progress: bool | None = None


def read_request(body: dict[str, Any]) -> GenerationRequest:
    """Return the request that a JSON object describes; raises FieldError for the first field that is wrong."""
    try:
        request = GenerationRequest.model_validate(body)
    except ValidationError as error:
        raise _describe(body, error.errors(include_url=False)[0]) from None
    for name in ("partial_images", "progress"):
        if getattr(request, name) and not request.stream:
            raise FieldError(f"{name} goes with stream: true", param=name)
    if request.stream and request.response_format == "url":
        raise FieldError("a stream has its pictures in b64_json; leave response_format out", param="response_format")
    return request


@cache
def _schema() -> dict[str, Any]:
    return GenerationRequest.model_json_schema()


def _describe(body: dict[str, Any], details: ErrorDetails) -> FieldError:
    name = str(details["loc"][0])
    known = list_keys(_schema(), ())
    if details["type"] == _UNKNOWN:
        text = f"{name:.100} is not a field that this server takes; {suggest(name, known)}"
        return FieldError(text, param=name[:100], code="unknown_parameter")
    if details["type"] == _MISSING:
        return FieldError(f"{name} is missing: it says what to draw", param=name, code="missing_required_parameter")
    if details["type"] == _TOO_LONG:
        text = f"{name} has {len(body[name])} characters; expected at most {MAX_PROMPT_CHARS}"
        return FieldError(text, param=name, code="string_above_max_length")
    expected = describe_schema(_schema(), find_schema(_schema(), (name,)))
    return FieldError(f"{name} is {describe_value(body[name])}; expected {expected}", param=name, code="invalid_value")
