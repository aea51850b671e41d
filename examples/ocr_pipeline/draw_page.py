"""Draws a page: python examples/ocr_pipeline/draw_page.py PICTURE [SEED]."""

import sys

import numpy as np
from pages import draw_page
from PIL import Image

seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
page, texts = draw_page(np.random.default_rng(seed), 5)
Image.fromarray(page).save(sys.argv[1])
print(*[text.digits for text in texts])
