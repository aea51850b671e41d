"""The server as a whole: the real command, over the wire."""

import numpy as np
import pytest

from .servers import serving
from .serving_models import write_factories


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    return write_factories(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=["processes", "threads"])
def server(factories, request):
    with serving(f"{factories}:twice", "--devices", "cpu:0,1", "--name", "m", "--workers", request.param) as server:
        yield server


def test_an_answer_is_the_models(server):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(server.infer("m", x=x)["y"], 2 * x)


def test_a_request_above_the_maximum_is_split(server):
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    np.testing.assert_array_equal(server.infer("m", x=x)["y"], 2 * x)
