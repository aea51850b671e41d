"""``ascend-parallel bench``: measure throughput and latency, and where the time goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ascend_parallel.checks import check_writable, read_numbers, read_whole_numbers
from ascend_parallel.errors import AscendParallelError, UsageError
from ascend_parallel.files import read_arrays, write_whole

from .arguments import (
    Cluster,
    Devices,
    EngineName,
    EngineOptions,
    Model,
    NumDevices,
    Precision,
    WorkerPython,
    runner_options,
)

if TYPE_CHECKING:
    from ascend_parallel.bench import Bench, MeasurementLimits, Row, SearchSpace

_STDOUT = "-"

BatchSizes = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N,N,...",
        help="Rows per call, over all devices. [default: enough to keep all devices busy]",
    ),
]
Instances = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="How many times each device runs the model at the same time. [default: 1]"),
]
InFlight = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Calls in flight. 1: predict, one call after the other; more: submit. [default: 1]",
    ),
]
Duration = Annotated[
    float | None, typer.Option(help="Seconds per combination. [default: 5, or more if calls are slow]")
]
BenchWorkers = Annotated[
    str | None,
    typer.Option(
        "--workers",
        help="processes: one worker process per device. threads: threads of this process, or of each host's. [default: "
        "processes; with --cluster threads, if the engine can run in them]",
    ),
]
Requests = Annotated[int | None, typer.Option(help="Measured calls per combination, instead of a duration.")]
Warmup = Annotated[
    int | None,
    typer.Option(help="Calls before the measurement. [default: 5, or 2 per call in flight if that is more]"),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:SIZE,...;...",
        help="Shapes of inputs with open axes, such as 'x:?,3,224,224;y:8'; ? stands for the row count.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="random|zero|IN.npz", help="Content of the inputs; the arrays of a file are the inputs of one call."
    ),
]
Percentiles = Annotated[str, typer.Option(metavar="P,P,...", help="Percentiles of the latency.")]
Sweep = Annotated[
    bool,
    typer.Option(
        "--sweep",
        help="Try batch sizes, instances and calls in flight in short runs on all devices, and print the best three.",
    ),
]
ShowBreakdown = Annotated[bool, typer.Option("--breakdown", help="Also print the time of each phase of a call.")]
TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="FILE.json", help="Write a timeline of some calls per combination, for ui.perfetto.dev."
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE.json|-", help="Write all figures as JSON; - prints them to standard output."),
]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the figures, as .png, .svg or .pdf.")
]
ChunkSize = Annotated[int | None, typer.Option(help="Rows per task. [default: one task per worker]")]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AXIS", help="Batch axis of an input or output; none: it is not sliced. Repeatable."),
]


def bench(
    model: Model,
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    precision: Precision = None,
    workers: BenchWorkers = None,
    worker_python: WorkerPython = None,
    cluster: Cluster = None,
    num_devices: NumDevices = None,
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
    """Measure throughput, latency and efficiency on the devices.

    Each combination of batch size, instances and calls in flight is measured on 1, 2, 4, ... and all devices, with the
    same inputs. The warm-up calls are not measured. If the run is interrupted, the results so far are printed.

    The figures:

    rows/s, calls/s (throughput): of the completed calls, over the time from the end of the warm-up to the end of the
    last call.

    +-: spread of the throughput. The calls are divided into five rounds of equally many calls. The spread is half the
    difference between the longest and the shortest round, relative to the mean.

    p50, p90, p99 (latency): percentiles of the time of one call, from predict or submit to its result.

    efficiency: rows/s on N devices, relative to N times the rows/s of the first device alone with the same settings.

    host: host overhead per call, the median. The host overhead is the latency, minus the compute time of the call's
    slowest task, minus the time that this task waits while its device computes other calls. It is measured in a
    separate pass after the measurement, because the recording takes some microseconds per call. The same pass serves
    --breakdown and --trace.

    rows/s a device, rows/s a host (with --cluster): the lowest and the highest rows/s of a single one.

    --breakdown and --trace divide a call into phases. For a call with several tasks, they are the phases of the task
    that finishes last. In this order: prepare (check the inputs, allocate memory), copy in (copy the inputs to shared
    memory), queueing (the device computes other calls), dispatch (the rest of the time until the device starts),
    compute, reply (until the caller is notified), gather (assemble the outputs).
    """
    outputs = OutputFiles(breakdown, sweep, trace, json_file, plot).checked()
    from ascend_parallel.bench import Bench, read_shapes

    options = runner_options(devices, engine, engine_option, workers, worker_python, precision, chunk_size, batch_axis)
    measured = Bench(
        model,
        search_space=choose_search_space(sweep, batch_size, instances, in_flight),
        limits=choose_limits(outputs, duration_s, requests, warmup, percentiles),
        data=read_data(data),
        shapes=read_shapes(input_shape),
        on_row=print_row,
        **{**options, **cluster_options(cluster, num_devices, workers)},
    )
    measure(measured, outputs)


def cluster_options(cluster: str | None, num_devices: int | None, workers: str | None) -> dict[str, Any]:
    """Return the options for a cluster, and what runs the model: by default, the runner of a cluster decides.

    Raises:
        UsageError: a number of devices is given without a cluster.
    """
    if cluster is not None:
        return {"cluster": cluster, "num_devices": num_devices, "workers": workers}
    if num_devices is not None:
        raise UsageError("--num-devices is for --cluster; without one, name the devices with --devices")
    return {"workers": workers or "processes"}


class OutputFiles(NamedTuple):
    """The requested outputs besides the table."""

    breakdown: bool
    sweep: bool
    trace: Path | None
    json_file: Path | None
    plot: Path | None

    def checked(self) -> OutputFiles:
        """Check, before anything is started, that all files can be written."""
        from ascend_parallel.bench.plot import check_plot

        if self.plot is not None:
            check_plot(self.plot)
        if self.trace is not None:
            check_writable("--trace", self.trace, [".json"])
        if self.json_file is not None and not self.prints_json:
            check_writable("--json", self.json_file, [".json"])
        if self.sweep and self.plot is not None:
            raise UsageError("--plot needs several numbers of devices, but --sweep measures on all only: leave one out")
        return self

    @property
    def prints_json(self) -> bool:
        """Whether standard output is reserved for JSON."""
        return str(self.json_file) == _STDOUT

    def write(self, bench: Bench) -> None:
        """Write and print the results; raises DiskError if a file could not be written."""
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
        text_as_json = json.dumps(report.to_json(), indent=2)
        if self.prints_json:
            print(text_as_json)
        elif self.json_file is not None:
            write_whole(self.json_file, lambda file: file.write(text_as_json.encode()))
        if self.plot is not None:
            write_plot(self.plot, report)
        if self.trace is not None:
            write_trace(self.trace, bench.sections)


def measure(bench: Bench, outputs: OutputFiles) -> None:
    """Measure, and write the results so far even if the measurement fails or is interrupted."""
    report = bench.report
    try:
        bench.run()
    except KeyboardInterrupt:
        report.error = "interrupted"
        print("interrupted; results so far:" if report.rows else "interrupted", file=sys.stderr)
        raise
    except AscendParallelError as error:
        report.error = str(error)
        raise
    finally:
        if report.rows:
            outputs.write(bench)


def print_row(row: Row) -> None:
    """Print the result of one setting to stderr."""
    print(f"{row.setting.in_words()}: {row.rows_per_s:.4g} rows/s", file=sys.stderr)


def choose_search_space(
    sweep: bool, batch_size: str | None, instances: str | None, in_flight: str | None
) -> SearchSpace:
    """Return the settings to measure."""
    from ascend_parallel.bench import SearchSpace
    from ascend_parallel.bench.sweep import search_space

    batch_sizes = read_counts("--batch-size", batch_size)
    instances_and_in_flight = (read_counts("--instances", instances), read_counts("--in-flight", in_flight))
    if sweep:
        return search_space(batch_sizes, *instances_and_in_flight)
    return SearchSpace(
        batch_sizes=batch_sizes,
        instances=instances_and_in_flight[0] or [1],
        in_flight=instances_and_in_flight[1] or [1],
    )


def choose_limits(
    outputs: OutputFiles, duration_s: float | None, requests: int | None, warmup: int | None, percentiles: str
) -> MeasurementLimits:
    """Return the limits of the measurement: short runs for a sweep, and a trace if its figures are shown."""
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
    """Return "random", "zero", or the arrays of a file by name; raises UsageError if the file cannot be read."""
    if text in ("random", "zero"):
        return text
    if not text.endswith(".npz"):
        raise UsageError(f"--data is {text!r}; expected random, zero, or an .npz file with the inputs of a call")
    return read_arrays("--data", Path(text))
