"""The regions of the shared-memory extension: which files they may be, and files that change while they are used."""

import os
import socket
import uuid
from pathlib import Path

import numpy as np
import pytest

from ascend_parallel.errors import NotFoundError, ShapeError, TooLargeError, UsageError
from ascend_parallel.serving.infer_head import TensorRef
from ascend_parallel.serving.shared_memory import SharedMemory

FOLDER = Path("/dev/shm")
FP32 = np.dtype("<f4")


@pytest.fixture
def name():
    """The name of a file of 64 bytes; it is a file that begins with "apt-"."""
    path = FOLDER / f"apt-{uuid.uuid4().hex[:8]}"
    path.write_bytes(np.arange(16, dtype=FP32).tobytes())
    yield path.name
    path.unlink(missing_ok=True)


@pytest.fixture
def memory(leaves_nothing):
    memory = SharedMemory("apt-")
    yield memory
    memory.unregister()


def ref(shape, offset=0, region="r"):
    return TensorRef("x", FP32, shape, -1, int(np.prod(shape)) * 4, None, (region, offset))


def read(memory, *refs, max_bytes=1000):
    return memory.read_inputs(refs, [None] * len(refs), max_bytes, np.empty)


def test_a_region_is_read_and_written(memory, name):
    memory.register("r", f"/{name}", 8, 56)
    (x,) = read(memory, ref((2, 3), 4))
    np.testing.assert_array_equal(x, np.arange(3, 9).reshape(2, 3))
    memory.write("y", ("r", 4, 24), x[:, ::-1])
    np.testing.assert_array_equal(
        np.fromfile(FOLDER / name, FP32)[3:9].reshape(2, 3), np.arange(3, 9).reshape(2, 3)[:, ::-1]
    )
    np.testing.assert_array_equal(x.ravel(), range(3, 9))  # what was read is a copy


def test_regions_are_described(memory, name):
    memory.register("r", name, 0, 64)
    memory.register("s", f"/{name}", 8, 8)
    first = {"name": "r", "key": name, "offset": 0, "byte_size": 64}
    assert memory.describe("r") == [first]
    assert memory.describe() == [first, {"name": "s", "key": f"/{name}", "offset": 8, "byte_size": 8}]
    memory.unregister("r")
    memory.unregister("r")  # clients do, to be sure
    with pytest.raises(NotFoundError, match="there is no shared-memory region 'r'; register it first"):
        memory.describe("r")
    memory.unregister()
    assert memory.describe() == []


@pytest.mark.parametrize(
    "key",
    ["", "/", "other", "/other", "../shm/apt-x", "apt-/../x", "//apt-x", "apt-\x00", "apt-\n", "apt-\udc80", "Apt-x"],
    ids=repr,
)
def test_other_names_than_those_with_the_prefix_are_refused(memory, key):
    with pytest.raises(UsageError, match="this server takes names of files in /dev/shm that begin with 'apt-'"):
        memory.register("r", key, 0, 1)


def _link(path):
    path.symlink_to("/etc/passwd")


def _bind(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize("make", [_link, os.mkfifo, os.mkdir, _bind], ids=["link", "pipe", "folder", "socket"])
def test_only_regular_files_are_opened(memory, make):
    path = FOLDER / f"apt-{uuid.uuid4().hex[:8]}"
    make(path)
    try:
        with pytest.raises(UsageError, match="is no regular file"):
            memory.register("r", path.name, 0, 1)
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


def test_only_files_of_the_server_s_user_are_opened(memory, name):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(FOLDER / name, 12345, -1)
    with pytest.raises(UsageError, match="belongs to the user 12345, but the server runs as 0"):
        memory.register("r", name, 0, 1)


def test_a_file_that_is_not_there(memory):
    with pytest.raises(UsageError, match="'r': /dev/shm/apt-nothing cannot be opened: No such file"):
        memory.register("r", "apt-nothing", 0, 1)
    with pytest.raises(UsageError, match="cannot be opened: File name too long"):
        memory.register("r", "apt-" + "x" * 300, 0, 1)


@pytest.mark.parametrize(
    "offset, byte_size", [(0, 65), (64, 1), (60, 8), (1 << 62, 1 << 62), (0, 0), (-1, 4), (0, 1 << 64), (1 << 64, 1)]
)
def test_bounds_of_a_region(memory, name, offset, byte_size):
    with pytest.raises(UsageError, match=f"it is to have {offset + byte_size} at least|expected at least"):
        memory.register("r", name, offset, byte_size)
    assert memory.describe() == []


def test_names_of_regions(memory, name):
    for wrong in ("", "x" * 1025):
        with pytest.raises(UsageError, match="the name is to have 1 to 1024 characters"):
            memory.register(wrong, name, 0, 1)
    memory.register("r", name, 0, 1)
    with pytest.raises(UsageError, match="'r' is registered already; unregister it first"):
        memory.register("r", name, 0, 2)
    assert memory.describe("r")[0]["byte_size"] == 1


def test_regions_are_counted(memory, name):
    for number in range(512):
        memory.register(str(number), name, 0, 1)
    with pytest.raises(UsageError, match="512 regions are registered already"):
        memory.register("r", name, 0, 1)


def test_bounds_of_tensors(memory, name):
    memory.register("r", name, 32, 32)
    read(memory, ref((8,)))
    with pytest.raises(ShapeError, match="input 'x': 36 bytes from offset 0 on are beyond .* 'r', which has 32 bytes"):
        read(memory, ref((9,)))
    with pytest.raises(ShapeError, match="4 bytes from offset 32 on"):
        read(memory, ref((1,), 32))
    with pytest.raises(NotFoundError, match="there is no shared-memory region 's'"):
        read(memory, ref((1,), region="s"))
    with pytest.raises(ShapeError, match="output 'y': 8 bytes from offset 28 on"):
        memory.write("y", ("r", 28, 8), np.zeros(2, FP32))
    with pytest.raises(ShapeError, match="output 'y' has 8 bytes, but its shared_memory_byte_size is 4"):
        memory.write("y", ("r", 0, 4), np.zeros(2, FP32))
    with pytest.raises(
        TooLargeError, match="the inputs in shared memory have 64 bytes; the server's max_body_bytes is 63"
    ):
        read(memory, ref((8,)), ref((8,)), max_bytes=63)


def test_a_file_that_becomes_shorter_is_an_error_and_no_signal(memory, name):
    memory.register("r", name, 0, 64)
    os.truncate(FOLDER / name, 10)
    with pytest.raises(UsageError, match="input 'x': the file of the shared-memory region 'r' has become shorter"):
        read(memory, ref((16,)))
    with pytest.raises(UsageError, match="output 'y': shared-memory region 'r': .* has 10 bytes; it is to have 64"):
        memory.write("y", ("r", 0, 64), np.zeros(16, FP32))
    assert (FOLDER / name).stat().st_size == 10


def test_a_region_lives_on_when_its_file_is_unlinked(memory, name):
    memory.register("r", name, 0, 64)
    (FOLDER / name).unlink()
    assert read(memory, ref((16,)))[0][15] == 15
