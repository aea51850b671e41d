"""A client: python examples/ocr_pipeline/client.py PICTURE [HOST:PORT]."""

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8000")
picture = http.InferInput("data", [1], "BYTES")
picture.set_data_from_numpy(np.array([Path(sys.argv[1]).read_bytes()], object))
answer = client.infer("ocr", [picture])
for text, box in zip(answer.as_numpy("texts"), answer.as_numpy("boxes"), strict=True):
    print(text.decode(), *box)
