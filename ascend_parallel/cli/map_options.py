"""The options of ``ascend-parallel map``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Pipeline = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE",
        help="module:factory (or file.py:factory), paddlex:NAME_OR_CONFIG.yaml, paddleocr:ClassName, or an .onnx or "
        ".mindir file.",
    ),
]
OutputDir = Annotated[Path, typer.Option(metavar="OUT", help="Where outputs and manifest.jsonl go.")]
InputDir = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of files.")]
InputList = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A list of files, one a line; - is standard input. Relative to --input-dir."),
]
Pattern = Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of --input-dir, such as '*.jpg'.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Those in sub-folders, too.")]
MapEngine = Annotated[
    str | None,
    typer.Option(
        "--engine", help="For a model file: mslite, onnxruntime or package.module:EngineClass; by default by suffix."
    ),
]
MapDevices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        "--device",
        help="Such as gpu:0,2, npu:0-3 or cpu:0,1 (two workers); by default all of the machine's best type.",
    ),
]
Instances = Annotated[int, typer.Option(help="Workers on each device; of a model file, threads over one model.")]
BatchSize = Annotated[int, typer.Option(help="Files that the pipeline is given at a time.")]
Options = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An option of the pipeline's constructor; repeatable."),
]
Preprocess = Annotated[
    str | None, typer.Option(metavar="MODULE:FUNCTION", help="For a model file: path -> one row of its inputs.")
]
Postprocess = Annotated[
    str | None, typer.Option(metavar="MODULE:FUNCTION", help="For a model file: outputs of one row -> result.")
]
OutputFormat = Annotated[
    str, typer.Option(help="files: one for each result; jsonl: all in OUT/results.jsonl, a line for each input.")
]
TimeoutS = Annotated[float, typer.Option(help="A worker that takes longer for one file is killed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that made OUT.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: failed files again.")]
ReportFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the run: an .html page or a .png picture.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print how work is shared out, and each failure.")]
