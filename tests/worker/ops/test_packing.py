"""The codec of requests to ops: what goes in comes out, and what cannot is named."""

import enum
import pickle

import numpy as np
import pytest
from calling import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ascend_parallel.worker.memory import ALIGNMENT_BYTES
from ascend_parallel.worker.ops.packing import NotPackable, Packed, unpack
from ascend_parallel.worker.protocol import encode_part

NUMBERS = ["?", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u8", "<f2", "<f4", ">f4", "<f8", "<c8", ">c16"]
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
arrays = st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shapes))
texts = st.sampled_from(["U3", "S3"]).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
objects = hnp.arrays(object, shapes, elements=st.text(max_size=3) | st.binary(max_size=3))
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
long_texts = st.builds(lambda text: text * 5000, st.text(min_size=1, max_size=2) | st.binary(min_size=1, max_size=2))
scalars = arrays.filter(lambda array: array.size).map(lambda array: array.ravel()[0])
trees = st.recursive(
    plain | arrays | texts | objects | scalars | long_texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def round_trip(document, **options):
    return unpack(Packed(document, **options).to_array())


@settings(deadline=None, max_examples=200)
@given(document=st.lists(trees, max_size=4), room=st.integers(0, 100))
def test_what_goes_in_comes_out_of_a_buffer_that_may_be_longer(document, room):
    packed = Packed(document)
    buffer = np.full(packed.size_bytes + room, 77, np.uint8)
    packed.write_to(buffer)
    assert (buffer[packed.size_bytes :] == 77).all()
    assert_same(unpack(buffer), document)


class Named(np.ndarray):
    """A subclass, as libraries have them."""


def test_not_contiguous_arrays_and_views_of_subclasses():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    document = [{"columns": wide[:, ::2], "reversed": wide[::-1], "turned": wide.T, "named": wide.view(Named)}]
    assert_same(round_trip(document), [{**document[0], "named": wide}])


def test_long_texts_may_hold_anything():
    document = [{"text": "\udc80" * 5000, "more": "a" * 4095 + "ü", "bytes": bytes(range(256)) * 20}]
    assert_same(round_trip(document), document)


def test_arrays_are_aligned_views_of_the_buffer_and_as_writeable_as_it_is():
    buffer = Packed([{"a": np.ones(3, np.int8), "b": np.ones(5)}, {"c": np.ones(1)}]).to_array()
    first, second = unpack(buffer)
    start = buffer.ctypes.data
    for array in (first["a"], first["b"], second["c"]):
        assert np.shares_memory(array, buffer) and array.flags.writeable
        assert (array.ctypes.data - start) % ALIGNMENT_BYTES == 0
    buffer.flags.writeable = False
    assert not unpack(buffer)[0]["a"].flags.writeable


def test_arrays_that_lie_elsewhere_are_named_by_a_number():
    inside, outside = np.ones(4), np.full(1 << 16, 2.0)
    document = [{"x": inside, "list": [outside]}, {"x": outside}]
    packed = Packed(document, find_outside=lambda array: 0 if array is outside else None)
    assert packed.size_bytes < 1024
    first, second = unpack(packed.to_array(), [outside])
    assert first["list"][0] is outside and second["x"] is outside
    assert_same(first["x"], inside)


def test_requests_that_share_a_value_do_not_share_what_is_unpacked():
    shared = {"list": [1]}
    first, second = round_trip([shared, shared])
    first["list"].append(2)
    assert second == {"list": [1]}


class Color(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


def test_subclasses_of_plain_types_become_plain():
    given = [{np.str_("key"): [Color.RED, Number.ONE, np.str_("s"), np.bytes_(b"b")]}]
    (found,) = round_trip(given)
    assert found == {"key": ["red", 1, "s", b"b"]}
    assert [type(value) for value in found["key"]] == [str, int, str, bytes] and type(next(iter(found))) is str


REFUSED = [
    ({"boxes": [1, 2, {3}]}, "'boxes'[2] is a set; possible are dict, list"),
    ({"a": {"b": (None, object())}}, "'a'['b'][1] is an object; possible are"),
    ({"z": 1j}, "'z' is a complex; possible are"),
    ({"data": bytearray(b"x")}, "'data' is a bytearray; possible are"),
    ({"at": {1: "x"}}, "'at' is a dict with the key 1, an int; keys must be str"),
    ({"when": np.zeros(2, "M8[s]")}, "'when' is a numpy array of datetime64"),
    ({"row": np.zeros(1, [("a", "i4")])}, "'row' is a numpy array of"),
    ({"names": np.array([["a", b"b"], ["c", 4.0]], object)}, "'names'[1][1] is a float in a numpy array of objects"),
    ({"n": np.array(None, object)}, "'n' is a NoneType in a numpy array of objects"),
    ({"m": np.ma.masked_array([1.0], [True])}, "'m' is a masked array, whose mask would be lost"),
]


@pytest.mark.parametrize(("inputs", "message"), REFUSED, ids=[message[:24] for _, message in REFUSED])
def test_what_cannot_be_sent_is_named_with_its_place(inputs, message):
    with pytest.raises(NotPackable) as caught:
        Packed([{"inputs": {}}, {"inputs": inputs}])
    assert caught.value.describe(skip=2).startswith(message)
    assert str(caught.value).startswith("[1]['inputs']['")
    assert caught.value.path[0] == 1
    assert isinstance(caught.value, TypeError)


def test_what_contains_itself_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(NotPackable, match="nested too deeply, or contains itself"):
        Packed([circle])


@pytest.mark.parametrize("cut", [0, 8, 16, 40, -1])
def test_a_buffer_that_is_too_short_is_refused(cut):
    buffer = Packed([{"x": np.ones(100)}]).to_array()
    with pytest.raises(ValueError, match="holds no document, or only a part of one"):
        unpack(buffer[:cut])


def test_zeros_are_no_document():
    with pytest.raises(ValueError, match="holds no document"):
        unpack(np.zeros(4096, np.uint8))


def test_only_plain_builtins_are_ever_loaded():
    head = encode_part(([print], []))
    sizes = np.array([len(head), 16 + len(head)], "<i8").tobytes()
    with pytest.raises(pickle.UnpicklingError, match="only plain builtins travel"):
        unpack(np.frombuffer(sizes + head, np.uint8))
