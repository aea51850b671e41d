"""benchmarks/serving_under_fire.py, shortened: what holds while workers die, clients are slow and the server ends."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import serving_under_fire as fire
from fire.clients import Tally
from fire.process import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("fire"))


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("kills", 0.07),
        ("hang", 0.1),
        ("end", 0.1),
        ("crowd", 0.01),
        ("memory", 0.01),
        ("pipeline-kills", 0.07),
        ("pipeline-hang", 0.1),
        ("pipeline-end", 0.1),
        ("pipeline-memory", 0.01),
    ],
)
def test_nothing_is_lost(model, name, scale):
    seen, problems = fire.SCENARIOS[name](model, scale)
    assert not problems, seen


def test_a_lost_answer_is_a_problem():
    tally = Tally()
    assert tally.problems() == []
    tally.lost = 2
    tally.wrong += ["an answer of another request"] * 2
    assert tally.problems() == ["2 requests were lost", "2 times: an answer of another request"]
