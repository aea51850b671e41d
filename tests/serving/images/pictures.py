"""What tests do with pictures and metrics."""

import base64
import io
import re

import numpy as np
from PIL import Image

#: The accepted difference, in levels of 0..255. ONNX Runtime sums in another order for another number of rows, so a
#: value between two levels may be rounded differently.
LEVELS = 1


def read_png(data):
    """Return the pixels of a PNG file, or of its base64, as int16 for subtraction."""
    with Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture).astype(np.int16)


def assert_same(picture, expected):
    assert picture.shape == expected.shape
    assert abs(picture - expected).max() <= LEVELS


def metric(http, name, **labels):
    """Return the value of a metric."""
    text = http.get("/metrics").text
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if match and wanted <= set(match[1].split(",")):
            return float(match[2])
    raise AssertionError(f"there is no metric {name} {labels}")
