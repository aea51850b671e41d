"""The checks of arguments: what each lets pass, and the one sentence in which it refuses."""

import math
import os
import sys
from pathlib import Path

import pytest

from ascend_parallel import UsageError, checks

WHOLE = "expected a whole number, at least 1"
SECONDS = "expected seconds, more than 0"
REFUSED = {
    "no yes or no": (checks.check_bool, ("sure", 1), "sure is 1; expected True or False"),
    "none of several": (checks.check_one_of, ("kind", "c", ["a", "b"]), "kind is 'c'; expected a or b"),
    "none in words": (checks.check_one_of, ("data", 3, ["a"], "a, or arrays"), "data is 3; expected a, or arrays"),
    "another type": (checks.check_type, ("axes", [], dict, "a dict"), "axes is []; expected a dict"),
    "below the least": (checks.check_whole_number, ("size", 0, 1), f"size is 0; {WHOLE}"),
    "a fraction": (checks.check_whole_number, ("size", 2.0, 1), f"size is 2.0; {WHOLE}"),
    "no number": (checks.check_whole_number, ("size", "2", 1), f"size is '2'; {WHOLE}"),
    "True is no number": (checks.check_whole_number, ("size", True, 1), f"size is True; {WHOLE}"),
    "what it counts": (
        checks.check_whole_number,
        ("n", -1, 0, "a number of calls"),
        "n is -1; expected a number of calls",
    ),
    "no numbers": (checks.check_whole_numbers, ("sizes", [], 1), "sizes is []; expected whole numbers, at least 1"),
    "one of them": (checks.check_whole_numbers, ("sizes", (2, 0), 1), "sizes is [2, 0]; expected whole numbers"),
    "too large": (
        checks.check_numbers,
        ("p", [50, 101], 0, 100),
        "p is [50, 101]; expected numbers from above 0 to",
    ),
    "not above": (checks.check_numbers, ("p", [0.0], 0, 100), "p is [0.0]; expected numbers from above 0"),
    "empty": (checks.check_numbers, ("p", [], 0, 100), "p is []; expected numbers"),
    "no time": (checks.check_seconds, ("wait_s", 0), f"wait_s is 0; {SECONDS}"),
    "no number of seconds": (checks.check_seconds, ("wait_s", math.nan), f"wait_s is nan; {SECONDS}"),
    "seconds as text": (checks.check_seconds, ("wait_s", "1"), f"wait_s is '1'; {SECONDS}"),
    "True is no time": (checks.check_seconds, ("wait_s", True), f"wait_s is True; {SECONDS}"),
    "text of no numbers": (
        checks.read_whole_numbers,
        ("-n", "1,x", 1),
        "-n is '1,x'; expected whole numbers, at lea",
    ),
    "text of small ones": (checks.read_whole_numbers, ("-n", "0", 1), "-n is '0'; expected whole numbers, at least 1"),
    "no text": (
        checks.read_whole_numbers,
        ("-n", "", 1),
        "-n is ''; expected whole numbers, at least 1, such as 1,",
    ),
    "text of words": (checks.read_numbers, ("-p", "5,a", "5,9.5"), "-p is '5,a'; expected numbers such as 5,9.5"),
    "no path": (checks.check_path, ("trace", 3, "a file"), "trace is 3; expected the path of a file"),
    "no file": (checks.check_file, ("model file", "x.onnx"), "there is no model file x.onnx (in "),
    "a folder is no file": (checks.check_file, ("model file", "."), "there is no model file . (in "),
    "no file of an option": (
        checks.check_file,
        ("--input", "x", "; expected y"),
        "--input x: there is no such file (",
    ),
    "no folder": (checks.check_folder, ("folder", "nowhere"), "there is no folder nowhere (in "),
    "no folder of an option": (checks.check_folder, ("--in", "nowhere"), "--in nowhere: there is no such folder (in "),
    "not installed": (
        checks.check_installed,
        ("--plot", "no_such", "pip install x"),
        "--plot needs no_such: pip install x",
    ),
    "no program": (checks.find_python, ("/no/python",), "worker_python='/no/python' is not an executable"),
    "no path of a program": (checks.find_python, (3,), "worker_python is 3; expected the path of a Python interpreter"),
}


@pytest.mark.parametrize(("check", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_in_one_sentence(check, arguments, message):
    with pytest.raises(UsageError) as caught:
        check(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_message_ends_with_what_is_expected_there():
    with pytest.raises(UsageError, match=r"--input x: there is no such file \(in .*\); expected y$"):
        checks.check_file("--input", "x", "; expected y")


def test_what_is_right_passes(tmp_path):
    (tmp_path / "file").touch()
    checks.check_bool("sure", False)
    checks.check_one_of("kind", "b", ("a", "b"))
    checks.check_whole_number("size", 1, 1)
    checks.check_whole_numbers("sizes", [1, 2], 1)
    checks.check_numbers("p", [0.1, 100], 0, 100)
    checks.check_seconds("wait_s", 0.5)
    checks.check_seconds("wait_s", math.inf)
    checks.check_file("file", tmp_path / "file")
    checks.check_folder("folder", tmp_path)
    checks.check_installed("all", "numpy", "")
    assert checks.read_whole_numbers("-n", "4, 1,4", 1) == [4, 1]
    assert checks.read_numbers("-p", "99.9,50,50", "") == [50, 99.9]
    assert checks.find_python(None) == sys.executable


def test_a_time_that_must_end():
    checks.check_seconds("wait_s", 3, may_be_endless=False)
    with pytest.raises(UsageError, match="wait_s is inf; expected seconds"):
        checks.check_seconds("wait_s", math.inf, may_be_endless=False)


def test_files_that_can_be_written(tmp_path, monkeypatch):
    checks.check_writable("--plot", tmp_path / "a.png", [".png", ".svg"])
    (tmp_path / "folder.png").mkdir()
    for path, words in [
        (tmp_path / "a.jpg", "a.jpg does not end in .png or .svg"),
        (tmp_path / "no" / "a.png", "there is no folder .*no; make it first"),
        (tmp_path / "folder.png", "folder.png is a folder; expected the name of a file"),
    ]:
        with pytest.raises(UsageError, match=f"^--plot .*{words}"):
            checks.check_writable("--plot", path, [".png", ".svg"])
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageError, match="a.png cannot be written: check the permissions"):
        checks.check_writable("--plot", tmp_path / "a.png", [".png"])


def test_folders_that_can_be_made(tmp_path, monkeypatch):
    checks.check_may_be_made("the folder", tmp_path / "a" / "b")
    checks.check_may_be_made("the folder", Path("c"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"the folder .*file/a cannot be created: .*file is not a folder"):
        checks.check_may_be_made("the folder", tmp_path / "file" / "a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"the folder .*a cannot be written to: check the permissions of"):
        checks.check_may_be_made("the folder", tmp_path / "a")
