"""What every server does: read the texts of a page by the example's two ops. Python 3.8, numpy and onnxruntime."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ocr_pipeline"
#: The largest batches that any server may form: more pages do not fit into a core's cache.
DETECT_BATCH_SIZE, RECOGNISE_BATCH_SIZE = 4, 16
#: Different pages that are sent, from 0 to 7 texts on each.
PAGES = 32


class OcrJob:
    """Pages, and what is to be read on each.

    Attributes:
        path: the folder of the example.
        name: of the pipeline.
        pages: arrays of uint8 and one shape.
        texts: the texts of each page, sorted.
    """

    def __init__(self) -> None:
        drawer = load("ocr_pages", EXAMPLE / "pages.py")
        drawn = [drawer.draw_page(np.random.default_rng(seed), seed % 8) for seed in range(PAGES)]
        self.path = str(EXAMPLE)
        self.name = "ocr"
        self.pages = [page for page, _ in drawn]
        self.texts = [sorted(text.digits for text in texts) for _, texts in drawn]


def load(name: str, path: Path) -> Any:
    """Return a module of a file."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_ops() -> Any:
    """Return the example's ops, as peers use them: all that they need of ascend_parallel are two classes."""
    if "ascend_parallel" not in sys.modules:
        interface = load("ocr_interface", ROOT / "ascend_parallel" / "worker" / "ops" / "interface.py")
        stand_in = types.ModuleType("ascend_parallel")
        stand_in.Skip, stand_in.ProductError = interface.Skip, interface.ProductError  # type: ignore[attr-defined]
        sys.modules["ascend_parallel"] = stand_in
    return load("ocr_ops", EXAMPLE / "ops.py")


def open_session(name: str) -> Any:
    """Return an ONNX Runtime session of one thread for a model of the example."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(EXAMPLE / "models" / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
    )


class Detector:
    """The first op, for peers: several pages in one run of the model."""

    def __init__(self) -> None:
        self._op = load_ops().Detect("cpu:0")
        self._session = open_session("detect")

    def run(self, pages: list[np.ndarray]) -> list[dict[str, Any]]:
        """Return boxes and lines of each page."""
        inputs = [{"page": page} for page in pages]
        feeds = [self._op.preprocess(each)["page"] for each in inputs]
        scores = self._session.run(None, {"page": np.concatenate(feeds)})[0]
        return [self._op.postprocess({"text": scores[number : number + 1]}, each) for number, each in enumerate(inputs)]


class Recogniser:
    """The second op, for peers: the lines of one width of several pages in one run of the model."""

    def __init__(self) -> None:
        self._op = load_ops().Recognise("cpu:0")
        self._session = open_session("recognise")

    def run(self, found: list[dict[str, Any]]) -> list[list[str]]:
        """Return the texts of each page."""
        inputs = [{"lines": each["lines"]} for each in found]
        feeds = [self._op.preprocess(each) for each in inputs]
        groups: dict[int, list[tuple[int, int]]] = {}
        for number, batches in enumerate(feeds):
            for place, batch in enumerate(batches if isinstance(batches, list) else []):
                groups.setdefault(batch["lines"].shape[-1], []).append((number, place))
        outputs: list[Any] = [[None] * (len(batches) if isinstance(batches, list) else 0) for batches in feeds]
        for members in groups.values():
            parts = [feeds[number][place]["lines"] for number, place in members]
            scores = self._session.run(None, {"lines": np.concatenate(parts)})[0]
            ends = np.cumsum([len(part) for part in parts])
            for (number, place), end, part in zip(members, ends, parts):  # noqa: B905 (Python 3.8)
                outputs[number][place] = {"digits": scores[end - len(part) : end]}
        texts = [self._op.postprocess(each, given) for each, given in zip(outputs, inputs)]  # noqa: B905
        return [each["texts"].tolist() for each in texts]
