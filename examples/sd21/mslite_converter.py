"""One ONNX file to one MINDIR file, by MindSpore Lite's own converter; run by path by the interpreter that has it.

    python mslite_converter.py --version             prints mindspore_lite's version, on its last line
    python mslite_converter.py IN.onnx OUT SHAPES    writes OUT.mindir; SHAPES is JSON: {"input": [1, 4, 8, 8], ...}

Python 3.7 and newer, standard library and mindspore_lite only. Its exit code tells whether it worked. It is a program
of its own as a process that both converts and builds a model can crash at its end.
"""

import json
import os
import sys
from typing import List  # noqa: UP035 (Python 3.7)

os.environ.setdefault("GLOG_v", "3")  # read when mindspore_lite is imported, never later: its info lines are many


def main(arguments: List[str]) -> None:  # noqa: UP006
    """Do what the arguments say; raises what the converter raises."""
    import mindspore_lite

    if arguments == ["--version"]:
        print(getattr(mindspore_lite, "__version__", "unknown"))
        return
    source, destination, shapes = arguments
    converter = mindspore_lite.Converter()
    converter.save_type = mindspore_lite.ModelType.MINDIR
    converter.input_shape = json.loads(shapes)
    converter.convert(mindspore_lite.FmkType.ONNX, source, destination)
    if not os.path.isfile(destination + ".mindir"):
        raise RuntimeError("the converter wrote no file")


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # the file is whole: nothing that mindspore_lite does at the end matters any more
