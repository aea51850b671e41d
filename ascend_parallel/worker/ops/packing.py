"""The codec of requests to ops and of their replies, for both sides: a document in one uint8 array.

A *document* is a list with an entry for each request. Entries are trees of dicts with str keys, lists, tuples, None,
bool, int, float, str, bytes, numpy scalars and numpy arrays. What comes back is equal, but for these: a tuple is a
list; a numpy scalar is an array without axes; an array has the byte order of the machine and is contiguous; an array
of str or bytes has the dtype object.

The array holds a header (:data:`_HEADER`), a head, and the bytes of the arrays, each at a multiple of
:data:`.memory.ALIGNMENT_BYTES`. The head is the encoding (see :func:`.protocol.encode_part`) of (document, patches).
In it, the document has None in place of each array. A patch says what belongs there: it begins with its kind, the
container and the key in it. The container is the very object of the document, because an encoding keeps identities; so
nothing is searched when a document is unpacked. Arrays that lie in shared memory already can stay there: then the patch
has a number that the reader knows them by.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from ..memory import align
from ..protocol import decode, encode_part

#: A document: an entry for each request.
Document = List[Any]
#: The keys and indices that lead from a document to a value in it.
Path = Tuple[Union[str, int], ...]
#: Returns the number of an array that need not be copied, None for one that must be.
FindOutside = Callable[[np.ndarray], Optional[int]]

#: Bytes of the head; bytes of all.
_HEADER = struct.Struct("<qq")
#: The kinds of patches; what follows kind, container and key.
_ARRAY = 0  # offset behind the head, dtype, shape
_OUTSIDE = 1  # number
_TEXTS = 2  # shape, list of str and bytes: an array of the dtype object
_BYTES = 3  # offset, size in bytes: a long bytes object
_STR = 4  # offset, size in bytes: a long str, in UTF-8
#: From this length on, text is kept out of the head, where it would be copied three times more.
_LONG_TEXT = 4096
#: A str of Python may hold halves of surrogate pairs.
_UTF8 = ("utf-8", "surrogatepass")
_ATOMS = frozenset((type(None), bool, int, float))
_TEXT = frozenset((str, bytes))
_KEYS = frozenset((str,))
#: The kinds of numpy's element types that are numbers or booleans.
_NUMBERS = "biufc"
_POSSIBLE = (
    "possible are dict, list, tuple, None, bool, int, float, str, bytes, numpy scalars, and numpy arrays of numbers, "
    "booleans, str or bytes"
)


class NotPackable(TypeError):
    """A document has something in it that cannot be sent.

    Attributes:
        path: where: keys and indices from the document on; the first is the number of the request.
        reason: what is wrong with it, such as "is a set; possible are ...".
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return self.describe()

    def describe(self, skip: int = 0) -> str:
        """Return a sentence: ``'boxes'[2] is a set; possible are ...``.

        Args:
            skip: how many of the first keys and indices to leave out, because the reader did not write them.
        """
        return "%s %s" % (describe_path(self.path[skip:]), self.reason)


def describe_path(path: Path) -> str:
    """Return where something is, as ``'boxes'[2]['score']``."""
    words = [
        repr(key) if position == 0 and isinstance(key, str) else "[%r]" % (key,) for position, key in enumerate(path)
    ]
    return "".join(words) or "it"


class Packed:
    """A document, checked and laid out, to be written to an array.

    The document and its arrays must not change before :meth:`write_to` was called.

    Attributes:
        size_bytes: the size of what :meth:`write_to` writes, exactly.
    """

    __slots__ = ("_arrays", "_find_outside", "_head", "_patches", "_room_bytes", "size_bytes")

    def __init__(self, document: Document, find_outside: Optional[FindOutside] = None) -> None:
        """Check a document and lay it out.

        Args:
            document: see above.
            find_outside: called with each array of numbers or booleans. If it returns a number, the array is not
                copied; the reader finds it under this number in ``outside`` of :func:`unpack`.

        Raises:
            NotPackable: something in it cannot be sent; a TypeError.
        """
        self._find_outside = find_outside
        self._arrays: List[Tuple[int, np.ndarray]] = []
        self._patches: List[Tuple[Any, ...]] = []
        self._room_bytes = 0
        try:
            head = encode_part((self._convert_list(document), self._patches))
        except RecursionError:
            raise NotPackable((), "is nested too deeply, or contains itself") from None
        start = align(_HEADER.size + len(head))
        self.size_bytes = start + self._room_bytes
        self._head = _HEADER.pack(len(head), self.size_bytes) + head

    def write_to(self, buffer: np.ndarray) -> None:
        """Write the document.

        Args:
            buffer: a contiguous one-dimensional uint8 array of at least :attr:`size_bytes`; the rest stays as it is.
        """
        head = self._head
        buffer.data[: len(head)] = head
        start = align(len(head))
        for offset, array in self._arrays:
            target: np.ndarray = np.ndarray(array.shape, _native(array.dtype), buffer, start + offset)
            target[...] = array

    def to_array(self) -> np.ndarray:
        """Return the document in a new uint8 array of :attr:`size_bytes`."""
        buffer = np.empty(self.size_bytes, np.uint8)
        self.write_to(buffer)
        return buffer

    def _convert_list(self, values: Sequence[Any]) -> List[Any]:
        if _ATOMS.issuperset(map(type, values)):
            return list(values)
        target: List[Any] = [None] * len(values)
        self._convert_items(target, enumerate(values))
        return target

    def _convert_dict(self, values: Dict[str, Any]) -> Dict[str, Any]:
        target: Dict[str, Any] = {}
        has_plain_keys = _KEYS.issuperset(map(type, values))
        self._convert_items(target, values.items() if has_plain_keys else _plain_items(values))
        return target

    def _convert_items(self, target: Any, items: Iterable[Tuple[Any, Any]]) -> None:
        """Put what stands for values into a new container; note patches for what does not fit into the head."""
        key: Any = None
        try:
            for key, value in items:
                kind = type(value)
                if kind in _ATOMS:
                    target[key] = value
                elif kind is np.ndarray:
                    target[key] = None
                    self._add_array(target, key, value)
                elif kind in _TEXT:
                    target[key] = value if len(value) < _LONG_TEXT else self._put_aside(target, key, value)
                elif kind is dict:
                    target[key] = self._convert_dict(value)
                elif kind is list:
                    target[key] = self._convert_list(value)
                else:
                    target[key] = self._convert_other(target, key, value)
        except NotPackable as error:
            error.path = (key,) + error.path
            raise

    def _convert_other(self, target: Any, key: Any, value: Any) -> Any:
        """Return what stands for a value of a rarer type; note a patch for an array."""
        if isinstance(value, np.ndarray):
            self._add_array(target, key, _without_subclass(value))
            return None
        if isinstance(value, str):  # of a subclass, such as numpy.str_
            return str.__str__(value)
        if isinstance(value, bytes):
            return b"".join((value,))
        if isinstance(value, np.generic):  # before float and complex, of which numpy's are subclasses
            self._add_array(target, key, np.asarray(value))
            return None
        if isinstance(value, dict):
            return self._convert_dict(value)
        if isinstance(value, (list, tuple)):
            return self._convert_list(value)
        if isinstance(value, int):  # a member of an IntEnum
            return int.__pos__(value)
        if isinstance(value, float):
            return float.__pos__(value)
        raise NotPackable((), "is %s; %s" % (with_article(type(value).__name__), _POSSIBLE))

    def _add_array(self, target: Any, key: Any, array: np.ndarray) -> None:
        dtype = array.dtype
        if dtype.kind not in _NUMBERS:
            self._patches.append((_TEXTS, target, key, array.shape, _list_texts(array)))
            return
        number = None if self._find_outside is None else self._find_outside(array)
        if number is not None:
            self._patches.append((_OUTSIDE, target, key, number))
            return
        self._patches.append((_ARRAY, target, key, self._take_room(array), _native(dtype).str, array.shape))

    def _put_aside(self, target: Any, key: Any, text: Union[str, bytes]) -> Any:
        """Keep a long text out of the head; return what stands for it there."""
        kind, data = (_STR, text.encode(*_UTF8)) if isinstance(text, str) else (_BYTES, text)
        self._patches.append((kind, target, key, self._take_room(np.frombuffer(data, np.uint8)), len(data)))
        return None

    def _take_room(self, array: np.ndarray) -> int:
        """Return the offset behind the head at which an array will lie."""
        offset = self._room_bytes
        self._arrays.append((offset, array))
        self._room_bytes = offset + align(array.nbytes)
        return offset


def unpack(buffer: np.ndarray, outside: Sequence[np.ndarray] = ()) -> Document:
    """Return the document that an array holds.

    Args:
        buffer: a contiguous one-dimensional uint8 array; it may be longer than the document.
        outside: the arrays that were not copied, by number.

    Returns:
        The document. Its arrays are views of ``buffer``, read-only if that is.

    Raises:
        ValueError: it holds no document, or not all of one.
    """
    head_bytes, total_bytes = _HEADER.unpack_from(buffer.data) if buffer.size >= _HEADER.size else (0, 0)
    end = _HEADER.size + head_bytes
    if not 0 < head_bytes < total_bytes <= buffer.size or end > total_bytes:
        raise ValueError("an array of %d bytes holds no document, or only a part of one" % buffer.size)
    document, patches = decode(buffer[_HEADER.size : end].tobytes())
    start = align(end)
    for kind, target, key, *details in patches:
        if kind == _ARRAY:
            offset, dtype, shape = details
            target[key] = np.ndarray(shape, dtype, buffer, start + offset)
        elif kind == _OUTSIDE:
            target[key] = outside[details[0]]
        elif kind == _TEXTS:
            target[key] = _restore_texts(*details)
        else:
            offset, size_bytes = details
            data = buffer[start + offset : start + offset + size_bytes].tobytes()
            target[key] = data if kind == _BYTES else data.decode(*_UTF8)
    return document  # type: ignore[no-any-return]


def _plain_items(values: Dict[Any, Any]) -> List[Tuple[str, Any]]:
    wrong = [key for key in values if not isinstance(key, str)]
    if wrong:
        kind = with_article(type(wrong[0]).__name__)
        raise NotPackable((), "is a dict with the key %r, %s; keys must be str" % (wrong[0], kind))
    return [(str.__str__(key), value) for key, value in values.items()]


def _native(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _without_subclass(array: np.ndarray) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray):
        raise NotPackable((), "is a masked array, whose mask would be lost; send its filled(...), or data and mask")
    return array.view(np.ndarray)


def _list_texts(array: np.ndarray) -> List[Union[str, bytes]]:
    """Return the elements of an array of str or bytes, in C order."""
    if array.dtype.kind not in "OUS":
        raise NotPackable((), "is a numpy array of %s; %s" % (array.dtype, _POSSIBLE))
    texts = array.ravel().tolist()
    if array.dtype.kind == "O" and not _TEXT.issuperset(map(type, texts)):
        texts = [_plain_text(text, position, array.shape) for position, text in enumerate(texts)]
    return texts  # type: ignore[no-any-return]


def _plain_text(text: Any, position: int, shape: Tuple[int, ...]) -> Union[str, bytes]:
    if isinstance(text, str):
        return str.__str__(text)
    if isinstance(text, bytes):
        return b"".join((text,))
    where = tuple(int(index) for index in np.unravel_index(position, shape)) if shape else ()
    kind = with_article(type(text).__name__)
    raise NotPackable(where, "is %s in a numpy array of objects, where only str and bytes are possible" % kind)


def _restore_texts(shape: Tuple[int, ...], texts: List[Union[str, bytes]]) -> np.ndarray:
    array: np.ndarray = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


def with_article(name: str) -> str:
    """Return the name of a type with its article: ``an int``, ``a dict``."""
    return "%s %s" % ("an" if name[:1].lower() in "aeiou" else "a", name)
