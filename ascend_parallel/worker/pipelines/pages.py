"""What becomes of the pages of a document: a result each, restructured ones, or one joined document.

PaddleOCR-VL's pipelines have ``restructure_pages``, which merges tables across pages, puts titles in their levels, and
joins pages into one result. PP-StructureV3 and PP-DocTranslation have ``concatenate_markdown_pages``, which joins the
Markdown texts of pages.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Iterable, Iterator, List

from .choices import JOINED, SEPARATE

#: The results of one file, in their order -> what is saved of them.
Arrange = Callable[[List[Any]], Iterable[Any]]


class JoinedMarkdown(Dict[str, Any]):
    """One Markdown text from the pages of a document, and the pictures that it shows.

    Attributes:
        images: path in the text -> PIL image.
    """

    def __init__(self, pages: List[Any], join: Callable[[List[Any]], Any]) -> None:
        """Join the pages of one document.

        Args:
            pages: the results of the pages.
            join: the pipeline's ``concatenate_markdown_pages``; it returns a text, or a dict with "markdown_texts".
        """
        self.images: Dict[str, Any] = {}
        joined = join([self._add_page(number, dict(page.markdown)) for number, page in enumerate(pages)])
        text = joined["markdown_texts"] if isinstance(joined, dict) else joined
        super().__init__(input_path=pages[0].get("input_path"), page_count=len(pages), markdown_texts=text.strip())

    def _add_page(self, number: int, page: Dict[str, Any]) -> Dict[str, Any]:
        """Take a page's pictures; return the page with a text in which no picture has the name of another."""
        for path, image in (page.get("markdown_images") or {}).items():
            free = path
            if path in self.images:
                folder, name = os.path.split(path)
                free = "/".join(filter(None, (folder, "page_%d_%s" % (number, name))))
                page["markdown_texts"] = page["markdown_texts"].replace(path, free)
            self.images[free] = image
        return page

    @property
    def json(self) -> Dict[str, Any]:
        """The text, as PaddleX's results have it."""
        return {"res": dict(self)}

    def save_to_json(self, path: str) -> None:
        """Write JSON to a path that ends in .json, or to ``STEM_res.json`` in a folder."""
        self._write(path, ".json", "_res.json", json.dumps(dict(self), ensure_ascii=False, indent=4))

    def save_to_markdown(self, path: str) -> None:
        """Write the text to a path that ends in .md, or to ``STEM.md`` in a folder, and the pictures beside it."""
        folder = self._write(path, ".md", ".md", self["markdown_texts"])
        for name, image in self.images.items():
            if image is not None:
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                image.save(os.path.join(folder, name))

    def _write(self, path: str, suffix: str, ending: str, text: str) -> str:
        if not path.endswith(suffix):
            stem = os.path.splitext(os.path.basename(self["input_path"] or "document"))[0]
            path = os.path.join(path, stem + ending)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return os.path.dirname(path)


def arrange_pages(pipeline: Any, predict: Any, pages: str, spec: str) -> Any:
    """Return a pipeline that arranges the results of each file.

    Args:
        pipeline: the object whose ``predict`` it is.
        predict: list of paths -> results.
        pages: one of the choices.
        spec: the pipeline's name in errors.

    Raises:
        TypeError: if the pipeline does not offer that.
    """
    if pages == SEPARATE:
        return predict
    arrange = _find_arrangement(pipeline, pages, spec)

    def arranged(paths: List[str]) -> Iterator[Any]:
        for results in _group(paths, predict(paths)):
            yield from arrange(results)

    return arranged


def _find_arrangement(pipeline: Any, pages: str, spec: str) -> Arrange:
    restructure = getattr(pipeline, "restructure_pages", None)
    if restructure is not None:
        return lambda results: restructure(results, concatenate_pages=pages == JOINED)
    join = getattr(pipeline, "concatenate_markdown_pages", None)
    if join is not None and pages == JOINED:
        return lambda results: [JoinedMarkdown(results, join)]
    offered = "separate and joined" if join is not None else "separate only"
    raise TypeError(
        "pages is %r, but %s has no method %s: it offers pages %s"
        % (pages, spec, "restructure_pages" if join is not None else "that restructures or joins pages", offered)
    )


def _group(paths: List[str], results: Iterable[Any]) -> Iterable[List[Any]]:
    """Return the results of each file; a result that does not name its file is alone."""
    groups: Dict[Any, List[Any]] = {}
    for number, result in enumerate(results):
        path = paths[0] if len(paths) == 1 else result.get("input_path") if isinstance(result, dict) else None
        groups.setdefault(number if path is None else path, []).append(result)
    return groups.values()
