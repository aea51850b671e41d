"""Which result belongs to which file."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple


class ResultsDoNotPair(Exception):
    """A batch gave more or fewer results than it has files, and they do not say whose they are."""


def pair(paths: Sequence[str], results: Iterable[Any]) -> Iterator[Tuple[int, Optional[int], Any]]:
    """Yield the results of a batch as they come, each with the file it belongs to.

    A result that is a dict with one of the paths as its ``"input_path"`` belongs to that file; others belong to the
    files in their order. A lone file has all results.

    Args:
        paths: the files of the batch, each named once.
        results: what the pipeline made of them.

    Yields:
        (position in ``paths``, page, result); the page is what the result's ``"page_index"`` says, else it counts the
        results of a file that has several, and is None for a file's only one.

    Raises:
        ResultsDoNotPair: a file has no result, or it cannot be told which.
    """
    position_of = {path: position for position, path in enumerate(paths)}
    counts = [0] * len(paths)
    held: Dict[int, Any] = {}
    for total, result in enumerate(results):
        position = _position(result, position_of, total)
        if position >= len(paths):
            raise ResultsDoNotPair("the pipeline gave more than %d results for %d files" % (len(paths), len(paths)))
        number = counts[position]
        counts[position] += 1
        page = result.get("page_index") if isinstance(result, dict) else None
        if isinstance(page, int):
            yield position, page, result
        elif number == 0:
            held[position] = result  # its name depends on whether more come
        else:
            if position in held:
                yield position, 0, held.pop(position)
            yield position, number, result
    for position, result in held.items():
        yield position, None, result
    _check_counts(counts)


def _position(result: Any, position_of: Dict[str, int], total: int) -> int:
    if len(position_of) == 1:
        return 0
    path = result.get("input_path") if isinstance(result, dict) else None
    return position_of[path] if isinstance(path, str) and path in position_of else total


def _check_counts(counts: List[int]) -> None:
    if 0 in counts:
        raise ResultsDoNotPair(
            "the pipeline gave no result for it"
            if len(counts) == 1
            else "the pipeline gave %d results for %d files" % (sum(counts), len(counts))
        )
