"""Whether an engine, and its runtime, can be imported by an interpreter; for ``ascend-parallel engines``::

    python3.7 .../ascend_parallel/worker/__main__.py probe ENGINE FOLDER...

FOLDERs are where an engine from outside is looked for after the interpreter's own places. It writes one JSON object in
a line to stdout: ``{"runtime": "onnxruntime 1.22.0", "error": ""}``. What a runtime prints meanwhile goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import List

from .engines import find_engine


def main(argv: List[str]) -> None:
    """Import the engine's runtime, say what came of it, and end the process."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    os.environ.setdefault("GLOG_v", "3")  # or MindSpore Lite prints many lines
    sys.path.extend(argv[1:])
    answer = {"runtime": "", "error": ""}
    try:
        answer["runtime"] = find_engine(argv[0]).describe_runtime()
    except (Exception, SystemExit) as error:
        answer["error"] = "%s: %s" % (type(error).__name__, " ".join(str(error).split()))
    os.write(answer_fd, json.dumps(answer).encode() + b"\n")
    os._exit(0)  # some runtimes crash when their interpreter ends
