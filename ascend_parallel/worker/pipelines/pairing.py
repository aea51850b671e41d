"""Assigns the results of a batch to its files."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple


class ResultMismatch(Exception):
    """The number of results differs from the number of files, and the results do not name their files."""


def pair(paths: Sequence[str], results: Iterable[Any]) -> Iterator[Tuple[int, Optional[int], Any]]:
    """Yield the results of a batch as they arrive, each with its file.

    A result that is a dict with one of the paths as ``"input_path"`` belongs to that file. Other results belong to the
    files in order. All results of a batch of one file belong to that file.

    Args:
        paths: the files of the batch, without duplicates.
        results: the results of the pipeline.

    Yields:
        (position in ``paths``, page, result). The page is the result's ``"page_index"``. Without one, it is the
        result's index among the results of its file, or None for the only result of a file.

    Raises:
        ResultMismatch: if a file has no result, or the results cannot be assigned.
    """
    position_of = {path: position for position, path in enumerate(paths)}
    counts = [0] * len(paths)
    first_results: Dict[int, Any] = {}
    for total, result in enumerate(results):
        position = _position(result, position_of, total)
        if position >= len(paths):
            raise ResultMismatch("the pipeline returned more than %d results for %d files" % (len(paths), len(paths)))
        index = counts[position]
        counts[position] += 1
        page = result.get("page_index") if isinstance(result, dict) else None
        if isinstance(page, int):
            yield position, page, result
        elif index == 0:
            first_results[position] = result  # its page depends on whether more results follow
        else:
            if position in first_results:
                yield position, 0, first_results.pop(position)
            yield position, index, result
    for position, result in first_results.items():
        yield position, None, result
    _check_counts(counts)


def _position(result: Any, position_of: Dict[str, int], total: int) -> int:
    if len(position_of) == 1:
        return 0
    path = result.get("input_path") if isinstance(result, dict) else None
    return position_of[path] if isinstance(path, str) and path in position_of else total


def _check_counts(counts: List[int]) -> None:
    if 0 in counts:
        raise ResultMismatch(
            "the pipeline returned no result for the file"
            if len(counts) == 1
            else "the pipeline returned %d results for %d files" % (sum(counts), len(counts))
        )
