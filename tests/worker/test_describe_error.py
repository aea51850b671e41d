"""Errors as text: the message tells the cause where it would not tell it itself."""

import pytest

from ascend_parallel.worker.results import describe_error


def raised(outer, inner=None):
    try:
        try:
            raise inner or ValueError("no matter")
        except Exception as error:
            raise outer from (error if inner else None)
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (raised(RuntimeError("failed")), "failed"),
        (raised(RuntimeError("failed"), ImportError("lib.so")), "failed (caused by ImportError: lib.so)"),
        (raised(RuntimeError("failed: lib.so"), ImportError("lib.so")), "failed: lib.so"),
        (raised(RuntimeError("failed"), ImportError()), "failed"),
    ],
)
def test_the_cause_is_told_once(error, message):
    kind, text, trace = describe_error(error)
    assert (kind, text) == ("RuntimeError", message)
    assert "Traceback" in trace
