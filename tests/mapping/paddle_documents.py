"""Tiny models for whole pipelines of PaddleX on its onnxruntime engine: OCR and PP-StructureV3.

The weights are random where numbers do not matter. Where something must be found, they are chosen: text is what is
dark, a page's layout is always the same, and every table has two cells.
"""

from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from .paddle_models import ORIENTATION, write_model

DETECTION, RECOGNITION, TEXT_LINE = "PP-OCRv5_mobile_det", "PP-OCRv5_mobile_rec", "PP-LCNet_x1_0_textline_ori"
LAYOUT, TABLE, CELLS = "PP-DocLayout_plus-L", "SLANet_plus", "RT-DETR-L_wireless_table_cell_det"
WIRED_TABLE, WIRED_CELLS, TABLE_KIND = "SLANeXt_wired", "RT-DETR-L_wired_table_cell_det", "PP-LCNet_x1_0_table_cls"
CHARACTERS = list("abcdefghijklmnopqrstuvwxyz")
#: PP-DocLayout_plus-L's, in its order.
LAYOUT_LABELS = [
    *("paragraph_title", "image", "text", "number", "abstract", "content", "figure_title", "formula", "table"),
    *("reference", "doc_title", "footnote", "header", "algorithm", "footer", "seal", "chart", "formula_number"),
    *("aside_text", "reference_content"),
]
#: What is on each page: (label, left, top, right, bottom), as parts of its width and height.
PAGE = [
    ("paragraph_title", 0.05, 0.05, 0.95, 0.15),
    ("text", 0.05, 0.2, 0.95, 0.45),
    ("image", 0.05, 0.5, 0.45, 0.95),
    ("table", 0.55, 0.5, 0.95, 0.95),
]
_TABLE_TOKENS = [
    "<thead>",
    "</thead>",
    "<tbody>",
    "</tbody>",
    "<tr>",
    "</tr>",
    "<td>",
    "<td",
    ">",
    "</td>",
    "<td></td>",
]
_STRUCTURE = ["<tbody>", "<tr>", "<td></td>", "<td></td>", "</tr>", "</tbody>"]


def write_page(number, size=(400, 560)):
    """Return a picture of a page: a few words in the places of :data:`PAGE`, and a coloured picture."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    for line, top in enumerate((0.08, 0.24, 0.36)):
        draw.text((0.1 * width, top * height), f"line {line} of page {number}", fill="black", font_size=24)
    draw.rectangle((0.08 * width, 0.55 * height, 0.4 * width, 0.9 * height), fill=(40 * number % 256, 200, 90))
    for column in (0.58, 0.78):
        draw.text((column * width, 0.7 * height), f"{number}x", fill="black", font_size=24)
    return image


def write_documents(folder, pictures, pages):
    """Write some pictures of one page, and a PDF with some pages; return their names."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    names = [f"p{number}.png" for number in range(pictures)]
    for number, name in enumerate(names):
        write_page(number).save(folder / name)
    first, *others = [write_page(number) for number in range(pages)]
    first.save(folder / "doc.pdf", save_all=True, append_images=others)
    return [*names, "doc.pdf"]


def write_ocr(folder) -> Path:
    """Write ``OCR.yaml`` and its models; return its path."""
    folder = Path(folder)
    return _write(folder / "OCR.yaml", _ocr(folder))


def ocr_options(folder):
    """Return the arguments of ``paddleocr.PaddleOCR`` for the models beside ``OCR.yaml``."""
    unused = ("use_doc_orientation_classify", "use_doc_unwarping", "use_textline_orientation")
    return {
        "engine": "onnxruntime",
        **dict.fromkeys(unused, "false"),
        "text_detection_model_name": DETECTION,
        "text_detection_model_dir": folder / DETECTION,
        "text_recognition_model_name": RECOGNITION,
        "text_recognition_model_dir": folder / RECOGNITION,
    }


def write_structure(folder) -> Path:
    """Write ``PP-StructureV3.yaml`` and its models; return its path."""
    folder = Path(folder)
    cells = [(0, 0.0, 0.0, 0.5, 1.0), (0, 0.5, 0.0, 1.0, 1.0)]
    places = [(LAYOUT_LABELS.index(label), *box) for label, *box in PAGE]
    kind = write_model(folder / TABLE_KIND, TABLE_KIND, ["wired_table", "wireless_table"])
    tables = {
        "TableClassification": _model("table_classification", TABLE_KIND, kind),
        "WiredTableStructureRecognition": _model("table_structure_recognition", *_table(folder, WIRED_TABLE)),
        "WirelessTableStructureRecognition": _model("table_structure_recognition", *_table(folder, TABLE)),
        "WiredTableCellsDetection": _model("table_cells_detection", *_boxes(folder, WIRED_CELLS, ["cell"], cells)),
        "WirelessTableCellsDetection": _model("table_cells_detection", *_boxes(folder, CELLS, ["cell"], cells)),
        "TableOrientationClassify": _model("doc_text_orientation", ORIENTATION, write_model(folder / ORIENTATION)),
    }
    pipeline = {
        "pipeline_name": "PP-StructureV3",
        "batch_size": 2,
        **{f"use_{what}": False for what in ("doc_preprocessor", "seal_recognition", "formula_recognition")},
        **{f"use_{what}": False for what in ("chart_recognition", "region_detection")},
        "use_table_recognition": True,
        "format_block_content": False,
        "SubModules": {
            "LayoutDetection": _model("layout_detection", *_boxes(folder, LAYOUT, LAYOUT_LABELS, places))
            | {"threshold": 0.5, "layout_nms": True}
        },
        "SubPipelines": {
            "DocPreprocessor": {
                "pipeline_name": "doc_preprocessor",
                "use_doc_orientation_classify": False,
                "use_doc_unwarping": False,
            },
            "GeneralOCR": _ocr(folder),
            "TableRecognition": {
                "pipeline_name": "table_recognition_v2",
                **{f"use_{what}": False for what in ("layout_detection", "doc_preprocessor", "ocr_model")},
                "SubModules": tables,
                "SubPipelines": {"GeneralOCR": _ocr(folder)},
            },
        },
    }
    return _write(folder / "PP-StructureV3.yaml", pipeline)


def _ocr(folder):
    return {
        "pipeline_name": "OCR",
        "text_type": "general",
        "use_doc_preprocessor": False,
        "use_textline_orientation": False,
        "SubModules": {
            "TextDetection": _model("text_detection", DETECTION, _detection(folder / DETECTION))
            | {"limit_side_len": 64, "limit_type": "min", "thresh": 0.3, "box_thresh": 0.4, "unclip_ratio": 1.5},
            "TextRecognition": _model("text_recognition", RECOGNITION, _recognition(folder / RECOGNITION))
            | {"batch_size": 6, "score_thresh": 0.0},
        },
    }


def _model(module, name, folder):
    return {"module_name": module, "model_name": name, "model_dir": str(folder), "engine": "onnxruntime"}


def _write(path, pipeline):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return path


def _detection(folder):
    """Mark what is dark; the mark is as wide as a word."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Neg", ["grey"], ["dark"]),
        helper.make_node("MaxPool", ["dark"], ["wide"], kernel_shape=[3, 17], pads=[1, 8, 1, 8], strides=[1, 1]),
        helper.make_node("Mul", ["wide", "gain"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["y"]),
    ]
    steps = [{"DetResizeForTest": {"resize_long": 960}}, {"NormalizeImage": _NORMALIZE}, {"ToCHWImage": None}]
    after = {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.4, "max_candidates": 100, "unclip_ratio": 1.5}
    return _save(
        folder, nodes, {"x": ["n", 3, "h", "w"]}, {"y": ["n", 1, "h", "w"]}, {"gain": 8.0}, DETECTION, steps, after
    )


def _recognition(folder):
    """One letter for every eight columns, by random weights."""
    random = np.random.default_rng(1)
    classes = len(CHARACTERS) + 2  # "blank" and a space
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["columns"], strides=[48, 8]),
        helper.make_node("Squeeze", ["columns", "two"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["steps"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["steps"], ["y"], axis=-1),
    ]
    values = {"filters": random.standard_normal((classes, 3, 48, 8)).astype(np.float32) / 10, "two": np.array([2])}
    steps = [{"RecResizeImg": {"image_shape": [3, 48, 320]}}]
    after = {"name": "CTCLabelDecode", "character_dict": CHARACTERS}
    return _save(folder, nodes, {"x": ["n", 3, 48, "w"]}, {"y": ["n", "t", classes]}, values, RECOGNITION, steps, after)


def _boxes(folder, name, labels, places):
    """Return a detector that finds the same in each picture; places are (label, left, top, right, bottom) in parts."""
    nodes = [
        helper.make_node("Div", ["im_shape", "scale_factor"], ["height_width"]),
        helper.make_node("Gather", ["height_width", "order"], ["sides"], axis=1),  # width, height, width, height
        helper.make_node("Unsqueeze", ["sides", "one"], ["sides_of_each"]),
        helper.make_node("Mul", ["sides_of_each", "parts"], ["corners"]),  # n, places, 4
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean", "three"], ["mean_of_each"]),
        helper.make_node("Mul", ["mean_of_each", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "heads"], ["head_of_each"]),
        helper.make_node("Concat", ["head_of_each", "corners"], ["boxes"], axis=2),
        helper.make_node("Reshape", ["boxes", "six"], ["found"]),
        helper.make_node("Squeeze", ["nothing", "both"], ["zeros"]),
        helper.make_node("Add", ["zeros", "count"], ["counts"]),
        helper.make_node("Cast", ["counts"], ["found_of_each"], to=TensorProto.INT32),
    ]
    values = {
        "order": np.array([1, 0, 1, 0]),
        "one": np.array([1]),
        "three": np.array([3]),
        "both": np.array([1, 2]),
        "six": np.array([-1, 6]),
        "zero": 0.0,
        "count": float(len(places)),
        "parts": np.array([place[1:] for place in places], np.float32)[None],
        "heads": np.array([[place[0], 0.9] for place in places], np.float32)[None],
    }
    inputs = {"im_shape": ["n", 2], "image": ["n", 3, 64, 64], "scale_factor": ["n", 2]}
    path = folder / name
    _save_graph(path, nodes, inputs, {"found": ["m", 6], "found_of_each": (TensorProto.INT32, ["n"])}, values)
    resize = {"type": "Resize", "target_size": [64, 64], "keep_ratio": False, "interp": 2}
    normalize = {"type": "NormalizeImage", "mean": [0.0] * 3, "std": [1.0] * 3, "norm_type": "none"}
    config = {"Preprocess": [resize, normalize, {"type": "Permute"}], "label_list": labels, "draw_threshold": 0.5}
    (path / "inference.yml").write_text(yaml.safe_dump({"Global": {"model_name": name}, **config}))
    return name, path


def _table(folder, name):
    """Return a recognizer that says that each table has one row of two cells."""
    tokens = ["sos", *[token for token in _TABLE_TOKENS if token != "<td>"], "eos"]
    chosen = [*_STRUCTURE, "eos"]
    scores = np.zeros((1, len(chosen), len(tokens)), np.float32)
    for step, token in enumerate(chosen):
        scores[0, step, tokens.index(token)] = 1.0
    corners = np.zeros((1, len(chosen), 8), np.float32)
    for step, left in ((2, 0.0), (3, 0.5)):
        corners[0, step] = [left, 0, left + 0.5, 0, left + 0.5, 1, left, 1]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean", "three"], ["mean_of_each"]),
        helper.make_node("Mul", ["mean_of_each", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "corners"], ["bbox"]),
        helper.make_node("Add", ["nothing", "scores"], ["structure"]),
    ]
    values = {"three": np.array([3]), "zero": 0.0, "corners": corners, "scores": scores}
    steps = [
        {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
        {"TableLabelEncode": {"merge_no_span_structure": True}},
        {"ResizeTableImage": {"max_len": 488}},
        {"NormalizeImage": _NORMALIZE | {"order": "hwc"}},
        {"PaddingTableImage": {"size": [488, 488]}},
        {"ToCHWImage": None},
    ]
    after = {"name": "TableLabelDecode", "character_dict": list(_TABLE_TOKENS)}
    outputs = {"bbox": ["n", "t", 8], "structure": ["n", "t", len(tokens)]}
    return name, _save(folder / name, nodes, {"x": ["n", 3, 488, 488]}, outputs, values, name, steps, after)


_NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 1 / 255, "order": ""}


def _save(folder, nodes, inputs, outputs, values, name, steps, after):
    _save_graph(folder, nodes, inputs, outputs, values)
    config = {"Global": {"model_name": name}, "PreProcess": {"transform_ops": steps}, "PostProcess": after}
    (folder / "inference.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def _save_graph(folder, nodes, inputs, outputs, values):
    folder.mkdir(parents=True, exist_ok=True)

    def tensors(shapes):
        kinds = {
            name: shape if isinstance(shape, tuple) else (TensorProto.FLOAT, shape) for name, shape in shapes.items()
        }
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()]

    constants = [
        numpy_helper.from_array(np.float32(value) if isinstance(value, float) else value, name)
        for name, value in values.items()
    ]
    graph = helper.make_graph(nodes, "model", tensors(inputs), tensors(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "inference.onnx")
