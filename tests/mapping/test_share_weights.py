"""``map --share-weights``: the workers of a model file map one set of weights."""

import models
import numpy as np
import pytest
from faults import procs

from ascend_parallel import UsageError, parallel_map

from . import folders

WIDTH = 256


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A folder of rows, and a cache for the weights in ``cache``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "rows").mkdir()
    for number in range(20):
        np.save(tmp_path / f"rows/{number:02}.npy", np.full(WIDTH, number / 20, np.float32))
    return tmp_path / "rows"


def model():
    return str(models.heavy_products(layers=4, width=WIDTH))


def outcomes(rows, **options):
    """Return the results by file, and the numbers of workers that map a file of the cache."""
    found, mapping = {}, set()
    for outcome in parallel_map(model(), rows, devices="cpu:0,1", ordered=False, **options):
        assert outcome.ok, outcome.error
        found[outcome.file] = next(iter(outcome.result.values()))
        for worker in procs.children():
            with open(f"/proc/{worker}/maps") as maps:
                mapping |= {worker} if str(rows.parent / "cache") in maps.read() else set()
    return found, len(mapping)


def test_both_workers_map_the_weights_and_give_the_same(rows):
    wanted, none = outcomes(rows)
    found, both = outcomes(rows, share_weights=True)
    assert (none, both) == (0, 2)
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])


def test_the_command(rows, tmp_path):
    words = [model(), "--input-dir", "rows", "--output-dir", "out", "--devices", "cpu:0,1", "--share-weights"]
    done = folders.command(*words, cwd=tmp_path)
    assert done.returncode == 0, folders.stderr_of(done)
    assert list((tmp_path / "cache/ascend-parallel/weights/entries").iterdir())
    resumed = folders.command(*words[:-1], "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, "it is no setting that results depend on"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": "gpu:0"}, "on cpu devices only, not on gpu ones: leave share_weights out"),
        ({"workers": "threads"}, "share_weights is for worker processes"),
    ],
    ids=str,
)
def test_where_weights_cannot_be_shared_it_is_refused(rows, options, message):
    with pytest.raises(UsageError, match=message):
        parallel_map(model(), rows, share_weights=True, **{"devices": "cpu:0,1", **options})
