"""The options of ``ascend-parallel map``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Pipeline = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE",
        help="module:factory (or file.py:factory), paddlex:NAME_OR_CONFIG.yaml, paddleocr:ClassName, "
        "pipeline:CONFIG.yml, or an .onnx, .mindir or .om file.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Which pipeline of pipeline:CONFIG.yml. [default: the only one]"),
]
OutputDir = Annotated[Path, typer.Option(metavar="OUT", help="Folder for the outputs and manifest.jsonl.")]
InputDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of input files.")]
InputList = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="List of input files, one per line; - reads standard input. Paths are relative to --input-dir.",
    ),
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
        help="Devices, such as gpu:0,2, npu:0-3 or cpu:0,1 (two workers). [default: all devices of the machine's best "
        "type]",
    ),
]
Instances = Annotated[
    int, typer.Option(help="Workers per device; for a model file, threads that share one set of weights.")
]
BatchSize = Annotated[int, typer.Option(help="Files per call of the pipeline.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Option of the pipeline's constructor or, for a model file, of its engine; repeatable.",
    ),
]
PredictOptions = Annotated[
    list[str] | None,
    typer.Option("--predict-option", metavar="NAME=VALUE", help="Option of the pipeline's predict; repeatable."),
]
Pages = Annotated[
    str,
    typer.Option(
        help="What becomes of the pages of a document: separate: a result each; restructured: tables merged across "
        "pages, titles in their levels (PaddleOCR-VL); joined: one result (also PP-StructureV3: its Markdown)."
    ),
]
Save = Annotated[
    str | None,
    typer.Option(
        metavar="FORMATS",
        help="Formats in which PaddleX's results save themselves, such as json,img,markdown,html,xlsx,csv, or all: to "
        "a folder for each file.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="For a model file: function that converts a path to one row of the inputs. For pipeline:CONFIG.yml: to "
        "the inputs of a request.",
    ),
]
MapWorkers = Annotated[
    str,
    typer.Option(
        help="processes: worker processes. threads: for a model file: threads of this process, which share one set of "
        "weights; a crash of the engine ends this process."
    ),
]
Postprocess = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="For a model file: function that converts the outputs of one row to a result. For pipeline:CONFIG.yml: "
        "those of a request.",
    ),
]
OutputFormat = Annotated[
    str,
    typer.Option(help="files: one file per result; jsonl: all results in OUT/results.jsonl, one line per input file."),
]
TimeoutS = Annotated[float, typer.Option(help="Time limit per file, in seconds; a worker that exceeds it is killed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that created OUT.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: process the failed files again.")]
ReportFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a report of the run: an .html page or a .png picture.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print the devices, workers and threads, and each failure.")]
