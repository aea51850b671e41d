"""The pictures that clients fetch by URL: the latest ones, bounded in number and bytes."""

from ascend_parallel.serving.images.picture_store import PictureStore


def test_the_oldest_go_first():
    store = PictureStore(max_pictures=3, max_bytes=1000)
    names = [store.add(bytes([i])) for i in range(5)]
    assert len(set(names)) == 5 and min(map(len, names)) >= 20
    assert [store.find(name) for name in names] == [None, None, b"\x02", b"\x03", b"\x04"]


def test_bytes_are_bounded():
    store = PictureStore(max_pictures=100, max_bytes=10)
    names = [store.add(b"x" * 4) for _ in range(4)]
    assert [store.find(name) is not None for name in names] == [False, False, True, True]
    large = store.add(b"x" * 50)  # larger than all may be: it is there until the next
    assert [store.find(name) is not None for name in [*names, large]] == [False] * 4 + [True]
    assert store.find("absent") is None and len(store) == 1
