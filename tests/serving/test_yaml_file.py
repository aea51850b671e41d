"""YAML with the line and column of each key and value, and everything wrong with its form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_parallel.serving.yaml_file import read_yaml

FULL = b"""\
# a comment
port: 80
models:
  - path: a.onnx
    devices: [cpu:0,
              cpu:1]
  - {path: b.onnx}
"""


def test_each_value_and_key_has_its_line_and_column():
    file = read_yaml(FULL)
    assert file.data == {"port": 80, "models": [{"path": "a.onnx", "devices": ["cpu:0", "cpu:1"]}, {"path": "b.onnx"}]}
    assert file.problems == []
    assert file.find(("port",)) == (2, 7)
    assert file.find(("port",), key=True) == (2, 1)
    assert file.find(("models",)) == (4, 3)
    assert file.find(("models", 0, "devices", 1)) == (6, 15)
    assert file.find(("models", 1, "path"), key=True) == (7, 6)
    assert file.find(("models", 1, "name")) == (7, 5), "what is not there would be here"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".inf", float("inf")),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("0x1f", "0x1f"),
        ("<<", "<<"),
        ("'12'", "12"),
        ("!!str 12", "12"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text, value):
    read = read_yaml(f"a: {text}".encode()).data["a"]
    assert read == value
    assert type(read) is type(value)


def test_what_is_merged_may_be_overridden():
    file = read_yaml(
        b"base: &base {path: a, instances: 2}\n"
        b"other: &other {path: o, warmup: 0}\n"
        b"one: {<<: *base, path: b}\n"
        b"two: {<<: [*base, *other]}\n"
    )
    assert file.problems == []
    assert file.data["one"] == {"path": "b", "instances": 2}
    assert file.data["two"] == {"path": "a", "instances": 2, "warmup": 0}
    assert file.find(("one", "path")) == (3, 24)
    assert file.find(("one", "instances")) == (1, 34), "where it is written"


PROBLEMS = {
    "a syntax error": (
        b"a: [1,\nb: 2\n",
        (3, 1),
        "this is not YAML: while parsing a flow sequence that begins in line 1, expected ',' or ']'",
    ),
    "a tab": (b"a:\n\t- 1\n", (2, 1), "this is not YAML: while scanning"),
    "two documents": (b"a: 1\n---\nb: 2\n", (2, 1), "this is not YAML: expected a single document"),
    "an unknown alias": (b"a: *b\n", (1, 4), "this is not YAML: found undefined alias 'b'"),
    "empty": (b"# nothing\n", None, "the file is empty; expected settings"),
    "not UTF-8": (b"a: 1\nb: \xff\n", (2, 4), "the file is not UTF-8 text"),
    "a control character": (b"a: 1\nb: \x07\n", (2, 4), "the character #x0007 is not allowed in YAML"),
    "a key twice": (b"a: 1\nb: 2\na: 3\n", (3, 1), "the key 'a' is there twice; it is first in line 1"),
    "a key that is no text": (b"a: {1: x}\n", (1, 5), "the key 1 is not text; put it into quotes"),
    "a key that is a list": (b"? [a]\n: x\n", (1, 3), "a key is not text"),
    "a tag": (b"a: !mine 3\n", (1, 4), "a has the tag !mine; expected none"),
    "a tag of Python": (b"a: !!python/name:os.system {}\n", (1, 4), "a has the tag !!python/name:os.system; expected"),
    "a set": (b"!!set {a}\n", (1, 1), "the configuration has the tag !!set; expected none"),
    "no number": (b"a: !!int x\n", (1, 4), "a cannot be read as !!int"),
    "too many digits": (b"a: " + b"1" * 5000, (1, 4), "a cannot be read as !!int"),
    "itself": (b"a: &a [*a]\n", (1, 4), "a[0] contains itself by an alias; write it out"),
    "merges itself": (b"a: &a {<<: *a}\n", (1, 4), "<< takes a mapping, or a list of mappings"),
    "merges a word": (b"a: {<<: b}\n", (1, 9), "<< takes a mapping, or a list of mappings"),
    "too deep": (b"[" * 1000, None, "the file is nested too deep"),
    "too large": (
        b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 10)) for c in range(ord("a"), ord("f"))),
        None,
        "the file has more than 100000 values",
    ),
}


@pytest.mark.parametrize(("content", "place", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_is_wrong_is_told_with_its_place(content, place, message):
    file = read_yaml(content)
    assert len(file.problems) == 1
    assert file.problems[0].place == place
    assert file.problems[0].message.startswith(message)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | st.text("ab:-,[]{}&*!|>%?#'\"\\ \n\t<~1.é\x00", max_size=60).map(str.encode))
def test_no_content_raises(content):
    file = read_yaml(content)
    assert file.problems or file.data is not None or content.strip()
    for problem in file.problems:
        assert problem.message
        assert problem.place is None or min(problem.place) >= 1
