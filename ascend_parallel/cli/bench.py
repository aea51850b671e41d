"""``ascend-parallel bench``: what the devices give, and where the time goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ascend_parallel.checks import check_writable, read_numbers, read_whole_numbers
from ascend_parallel.errors import AscendParallelError, UsageError
from ascend_parallel.files import write_whole

from .arguments import Devices, EngineName, EngineOptions, Model, WorkerPython, read_batch_axes, read_options
from .run import read_arrays

if TYPE_CHECKING:
    from ascend_parallel.bench import Bench, MeasurementLimits, Row, SearchSpace

_STDOUT = "-"

BatchSizes = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N,N,...",
        help="Rows of a call, over all devices; by default what keeps all of them busy.",
    ),
]
Instances = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Times that each device runs the model at once; by default 1.")
]
InFlight = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...", help="Calls at a time (concurrency): 1 is predict after predict, the default; more, submit."
    ),
]
Duration = Annotated[
    float | None, typer.Option(help="Seconds of each combination; by default 5, or more where a call takes long.")
]
Requests = Annotated[int | None, typer.Option(help="Measured calls of each combination, in place of a time.")]
Warmup = Annotated[
    int | None, typer.Option(help="Calls before that are not measured; by default 5, or 2 for each in flight.")
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:SIZE,...;...",
        help="Shapes of inputs where the model leaves them open, such as 'x:?,3,224,224;y:8'; ? for the rows.",
    ),
]
Data = Annotated[
    str, typer.Option(metavar="random|zero|IN.npz", help="What the inputs hold; a file's arrays are one call.")
]
Percentiles = Annotated[str, typer.Option(metavar="P,P,...", help="Of latency.")]
Sweep = Annotated[
    bool,
    typer.Option(
        "--sweep",
        help="Try batch sizes, instances and calls in flight in short runs on all devices, and print the best three.",
    ),
]
ShowBreakdown = Annotated[bool, typer.Option("--breakdown", help="Print where the time goes, too.")]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE.json", help="Write when what happened in each call, for ui.perfetto.dev."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE.json|-", help="Write all figures there; - prints them.")
]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the figures; .svg and .pdf will do, too.")
]
ChunkSize = Annotated[int | None, typer.Option(help="Rows a task; by default one task for each worker.")]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AXIS", help="Where the rows of an input or output are; none: not sliced."),
]


def bench(
    model: Model,
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    worker_python: WorkerPython = None,
    chunk_size: ChunkSize = None,
    batch_axis: BatchAxis = None,
    batch_size: BatchSizes = None,
    instances: Instances = None,
    in_flight: InFlight = None,
    duration_s: Duration = None,
    requests: Requests = None,
    warmup: Warmup = None,
    input_shape: InputShape = None,
    data: Data = "random",
    percentiles: Percentiles = "50,90,99",
    sweep: Sweep = False,
    breakdown: ShowBreakdown = False,
    trace: TraceFile = None,
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Measure what the devices give, and where the time goes.

    Throughput, latency, and efficiency by number of devices.

    Each combination of batch sizes, instances and calls in flight is measured on 1, 2, 4, ... and all of the devices,
    with the same calls. Warm-up calls are not measured. Of a run that is interrupted, what was measured is shown.

    What the figures are:

    rows/s, calls/s (throughput): of the calls that ended, over the time from the end of the warm-up to the last end.

    +-: spread of the throughput: the calls are taken in five rounds of as many calls each; half the difference between
    the longest round and the shortest, against the mean.

    p50, p90, p99 (latency): of one call, from predict or submit to its result.

    efficiency: rows/s, against as many times what the first device gave alone with the same settings.

    host: host overhead of a call, the median: its latency, less the time that its slowest task was computed, and less
    the time that this task waited for a device that computed another call. Taken, as --breakdown and --trace are, in a
    pass of its own after measuring, as noting the times takes some microseconds a call.

    rows/s a device: of each device, the least and the greatest.

    What --breakdown and --trace tell of a call, in the order in which it happens, and, where it has several tasks, of
    the one that it had to wait for: prepare (inputs are checked, memory is taken), copy in (inputs go to shared
    memory), queueing (its device computes other calls), dispatch (the rest until the device begins), compute, reply
    (until the caller knows), gather (outputs are put together).
    """
    outputs = OutputFiles(breakdown, sweep, trace, json_file, plot)
    outputs.check()
    from ascend_parallel.bench import Bench, read_shapes

    options: dict[str, Any] = {"devices": devices, "engine": engine, "engine_options": read_options(engine_option)}
    options |= {"worker_python": worker_python, "chunk_size": chunk_size, "batch_axes": read_batch_axes(batch_axis)}
    measure(
        Bench(
            model,
            search_space=choose_search_space(sweep, batch_size, instances, in_flight),
            limits=choose_limits(outputs, duration_s, requests, warmup, percentiles),
            data=read_data(data),
            shapes=read_shapes(input_shape),
            on_row=tell,
            **options,
        ),
        outputs,
    )


class OutputFiles(NamedTuple):
    """What is wanted beside the table, as the options say it."""

    breakdown: bool
    sweep: bool
    trace: Path | None
    json_file: Path | None
    plot: Path | None

    def check(self) -> None:
        """Check, before anything is started, that all files can be written."""
        from ascend_parallel.bench.plot import check_plot

        if self.plot is not None:
            check_plot(self.plot)
        if self.trace is not None:
            check_writable("--trace", self.trace, [".json"])
        if self.json_file is not None and not self.prints_json:
            check_writable("--json", self.json_file, [".json"])
        if self.sweep and self.plot is not None:
            raise UsageError("--plot draws numbers of devices, but --sweep measures on all of them only: leave one out")

    @property
    def prints_json(self) -> bool:
        """Whether stdout is for JSON."""
        return str(self.json_file) == _STDOUT

    def write(self, bench: Bench) -> None:
        """Write and print what was measured; raises DiskError where a file could not be written."""
        from ascend_parallel.bench.plot import write_plot
        from ascend_parallel.bench.sweep import find_best
        from ascend_parallel.bench.table import show, show_best, show_breakdown
        from ascend_parallel.runner.trace_file import write_trace

        report = bench.report
        text = sys.stderr if self.prints_json else sys.stdout
        show(report, bench.inputs, text)
        if self.breakdown:
            show_breakdown(report, text)
        if self.sweep:
            show_best(find_best(report.rows), text)
        plain = json.dumps(report.to_json(), indent=2)
        if self.prints_json:
            print(plain)
        elif self.json_file is not None:
            write_whole(self.json_file, lambda file: file.write(plain.encode()))
        if self.plot is not None:
            write_plot(self.plot, report)
        if self.trace is not None:
            write_trace(self.trace, bench.sections)


def measure(bench: Bench, outputs: OutputFiles) -> None:
    """Measure, and put out what was measured, whatever happened meanwhile."""
    report = bench.report
    try:
        bench.run()
    except KeyboardInterrupt:
        report.error = "interrupted"
        print("interrupted; measured until then:" if report.rows else "interrupted", file=sys.stderr)
        raise
    except AscendParallelError as error:
        report.error = str(error)
        raise
    finally:
        if report.rows:
            outputs.write(bench)


def tell(row: Row) -> None:
    """Say on stderr that a setting was measured."""
    print(f"{row.setting.in_words()}: {row.rows_per_s:.4g} rows/s", file=sys.stderr)


def choose_search_space(
    sweep: bool, batch_size: str | None, instances: str | None, in_flight: str | None
) -> SearchSpace:
    """Return what is to be measured."""
    from ascend_parallel.bench import SearchSpace
    from ascend_parallel.bench.sweep import search_space

    batch_sizes = read_counts("--batch-size", batch_size)
    others = (read_counts("--instances", instances), read_counts("--in-flight", in_flight))
    if sweep:
        return search_space(batch_sizes, *others)
    return SearchSpace(batch_sizes=batch_sizes, instances=others[0] or [1], in_flight=others[1] or [1])


def choose_limits(
    outputs: OutputFiles, duration_s: float | None, requests: int | None, warmup: int | None, percentiles: str
) -> MeasurementLimits:
    """Return how much is to be measured: shorter runs for a sweep, and records of calls where they are shown."""
    from ascend_parallel.bench import MeasurementLimits
    from ascend_parallel.bench.measure import USUAL_DURATION_S
    from ascend_parallel.bench.sweep import DURATION_S

    with_trace = not outputs.sweep or outputs.breakdown or outputs.trace is not None
    usual_s = DURATION_S if outputs.sweep else USUAL_DURATION_S
    wanted = read_numbers("--percentiles", percentiles, "50,90,99.9")
    return MeasurementLimits(duration_s, requests, warmup, wanted, with_trace, usual_s)


def read_counts(option: str, text: str | None) -> list[int] | None:
    """Read ``"1,2,4"``; raises UsageError where it is no list of whole numbers, at least 1."""
    return None if text is None else read_whole_numbers(option, text, 1)


def read_data(text: str) -> str | Mapping[str, Any]:
    """Return "random" or "zero", or the arrays of a file, by name; raises UsageError where it cannot be read."""
    if text in ("random", "zero"):
        return text
    if not text.endswith(".npz"):
        raise UsageError(f"--data is {text!r}; expected random, zero, or an .npz file with the inputs of a call")
    return read_arrays("--data", Path(text))
