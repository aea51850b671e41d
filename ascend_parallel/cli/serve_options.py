"""The options of ``ascend-parallel serve``; their checks and defaults are those of ``serving/config.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOrConfig = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL|CONFIG.yml",
        help="A .mindir or .onnx file, module:factory (or file.py:factory); or a .yml file that describes a server.",
    ),
]
Name = Annotated[str | None, typer.Option(help="The model's name in URLs. [default: that of its file]")]
ServeWorkers = Annotated[
    str | None,
    typer.Option(
        help="processes: one worker process per device. threads: threads of the server, which copy nothing; a crash "
        "of the engine ends the server. [default: processes]"
    ),
]
Instances = Annotated[
    int | None, typer.Option(help="How many times each device runs the model at the same time. [default: 1]")
]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AXIS", help="Batch axis of an input or output; none: it is not sliced. Repeatable."),
]
Precision = Annotated[
    str | None, typer.Option(help="fp32, fp16, bf16 or int8, if the engine can. [default: the model's own]")
]
MaxBatchSize = Annotated[
    int | None, typer.Option(help="Rows of a batch, at most. [default: 16, or those that the model fixes]")
]
MaxQueueDelay = Annotated[
    float | None,
    typer.Option(
        "--max-queue-delay-ms", help="How long a request may wait for others while a worker is free. [default: 0]"
    ),
]
MaxQueueSize = Annotated[
    int | None, typer.Option(help="How many requests may wait; further ones are refused. [default: 1024]")
]
Timeout = Annotated[
    float | None, typer.Option("--timeout-ms", help="How long a request may wait and run. [default: 60000]")
]
Host = Annotated[
    str | None,
    typer.Option(help="The address to listen on; 0.0.0.0 lets other hosts reach the server. [default: 127.0.0.1]"),
]
Port = Annotated[int | None, typer.Option(help="The port of HTTP; 0: any free one. [default: 8000]")]
GrpcPort = Annotated[int | None, typer.Option(help="The port of gRPC; 0: any free one. [default: no gRPC]")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the bearer token that requests must have. [default: none is needed]")
]
TlsCert = Annotated[Path | None, typer.Option(help="Certificate for TLS, a PEM file. [default: no TLS]")]
TlsKey = Annotated[Path | None, typer.Option(help="Private key of the certificate, a PEM file.")]
SharedMemoryPrefix = Annotated[
    str | None,
    typer.Option(
        help="Let clients of this host pass tensors in files of /dev/shm whose names begin with this. "
        "[default: they may not]"
    ),
]
AccessLog = Annotated[bool, typer.Option("--access-log", help="Log each request.")]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE.json", help="At the end, write a timeline of requests, for ui.perfetto.dev."),
]
AllowControl = Annotated[bool, typer.Option("--allow-control", help="Let clients load and unload models.")]
Draw = Annotated[
    Path | None,
    typer.Option(
        "--draw",
        metavar="FILE.svg",
        help="Only draw the pipelines, by graphviz (.svg, .png, .pdf), or as its text (.dot).",
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Only check: print a line per model and op, and start nothing.")]
Schema = Annotated[
    bool, typer.Option("--schema", help="Print the JSON schema of CONFIG.yml, for editors, and start nothing.")
]
