r"""MindSpore Lite's Python ``Converter`` with converter_lite's options; run by path, by the interpreter that has it::

    python3.7 .../worker/convert.py --version          prints mindspore_lite's version on its last line
    python3.7 .../worker/convert.py --modelFile=IN.onnx --fmk=ONNX --outputFile=OUT \
        --inputShape="x:1,4;y:1" --optimize=general [--configFile=FILE]          writes OUT.mindir

The exit code is 0 for success. It is a separate program because a process that both converts and builds a model may
crash when it exits.
"""

from __future__ import annotations

import os
import sys
from typing import Dict, List

REQUIRED = ("modelFile", "fmk", "outputFile", "optimize")
OPTIONAL = ("inputShape", "configFile")


def main(argv: List[str]) -> None:
    """Run the conversion that the arguments describe; raises the converter's exceptions."""
    os.environ.setdefault("GLOG_v", "3")  # read by the import of mindspore_lite; otherwise it logs many info lines
    import mindspore_lite

    if argv == ["--version"]:
        print(getattr(mindspore_lite, "__version__", "unknown"))
        return
    options = parse_options(argv)
    converter = mindspore_lite.Converter()
    converter.save_type = mindspore_lite.ModelType.MINDIR
    converter.optimize = options["optimize"]
    if "inputShape" in options:
        converter.input_shape = parse_shapes(options["inputShape"])
    framework = getattr(mindspore_lite.FmkType, options["fmk"])
    config = options.get("configFile", "")
    converter.convert(framework, options["modelFile"], options["outputFile"], config_file=config)


def parse_options(argv: List[str]) -> Dict[str, str]:
    """Parse ``--name=value`` arguments; exit if one is unknown or missing."""
    options = {}
    for word in argv:
        name, equals, value = word.partition("=")
        if not equals or name[:2] != "--" or name[2:] not in REQUIRED + OPTIONAL:
            sys.exit(
                "%r is not an option of this program; the options are: %s" % (word, ", ".join(REQUIRED + OPTIONAL))
            )
        options[name[2:]] = value
    missing = [name for name in REQUIRED if name not in options]
    if missing:
        sys.exit("--%s is missing" % missing[0])
    return options


def parse_shapes(text: str) -> Dict[str, List[int]]:
    """Parse ``name:1,4,64,64;name:1``; a name may contain colons."""
    shapes = {}
    for part in text.split(";"):
        name, _, sizes = part.rpartition(":")
        shapes[name] = [int(size) for size in sizes.split(",")]
    return shapes


if __name__ == "__main__":
    # Python puts a script's folder first on sys.path; its ``memory`` and ``loop`` would hide modules of the same name.
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # the file is complete; this skips mindspore_lite's cleanup
