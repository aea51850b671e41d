"""The measurement: one row of figures per setting, starting with the first device alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.checks import check_numbers, check_seconds, check_whole_number, check_whole_numbers
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import choose_engine
from ascend_parallel.runner.trace import Trace
from ascend_parallel.runner.trace_file import TraceSection

from . import figures
from .breakdown import break_down, host_overhead_us
from .data import InputGenerator, Shape
from .load import LoadGenerator, Samples
from .report import Report, Row, Setting

#: The duration per setting, by default.
USUAL_DURATION_S = 5.0
#: Calls before the measurement: in the first ones, engines allocate memory and choose kernels, and the pipeline fills.
_MIN_WARMUP = 5
#: After the measurement, one call per this many measured calls is repeated with recording, up to a maximum that is
#: sufficient for a picture.
_TRACED_SHARE = 5
_MAX_TRACED = 1000


@dataclass
class MeasurementLimits:
    """How much is measured.

    Attributes:
        duration_s: seconds per setting; None: five, or more if calls are slow.
        requests: measured calls per setting, instead of a duration.
        warmup: calls before the measurement; None: five, or two per call in flight if that is more.
        percentiles: percentiles of the latency, in percent.
        with_trace: whether to record calls after the measurement, for the host overhead and the breakdown.
        usual_duration_s: the duration if neither ``duration_s`` nor ``requests`` is given.
    """

    duration_s: float | None = None
    requests: int | None = None
    warmup: int | None = None
    percentiles: Sequence[float] = (50, 90, 99)
    with_trace: bool = True
    usual_duration_s: float = USUAL_DURATION_S

    def check(self) -> None:
        """Check the values; raises UsageError."""
        if self.duration_s is not None and self.requests is not None:
            raise UsageError(
                "a duration and a number of requests were both given; measuring ends with one: leave one out"
            )
        if self.duration_s is not None:
            check_seconds("the duration", self.duration_s, may_be_endless=False)
        if self.requests is not None and self.requests < figures.MIN_CALLS:
            raise UsageError(f"the number of requests is {self.requests}; figures need at least {figures.MIN_CALLS}")
        if self.warmup is not None:
            check_whole_number("warmup", self.warmup, 0, "a number of calls")
        check_numbers("percentiles", self.percentiles, above=0, at_most=100)

    def is_enough(self, samples: Samples) -> bool:
        """Whether enough calls were measured."""
        if self.requests is not None:
            return len(samples) >= self.requests
        duration_s = self.duration_s or self.usual_duration_s
        is_time_up = time.perf_counter_ns() >= samples.started_ns + duration_s * 1e9
        return is_time_up and (self.duration_s is not None or len(samples) >= figures.MIN_CALLS)


@dataclass
class SearchSpace:
    """The settings to measure: each combination.

    Attributes:
        is_all: measure on all devices only, not on 1, 2, 4, ... of them first.
        batch_sizes: rows per call, over all devices; None: enough to keep every instance of every device busy.
        instances: how many times each device runs the model at the same time.
        in_flight: calls in flight.
        batch_factors: the sizes to try if ``batch_sizes`` is None, as multiples of the size that keeps all devices
            busy.
    """

    is_all: bool = False
    batch_sizes: Sequence[int] | None = None
    instances: Sequence[int] = (1,)
    in_flight: Sequence[int] = (1,)
    batch_factors: Sequence[int] = ()

    def check(self) -> None:
        """Check the values; raises UsageError."""
        named = {"batch size": self.batch_sizes, "instances": self.instances, "in flight": self.in_flight}
        for name, numbers in named.items():
            if numbers is not None:
                check_whole_numbers(name, numbers, 1)


def numbers_of_devices(count: int) -> list[int]:
    """Return 1, 2, 4, ... and ``count``."""
    return sorted({*(2**i for i in range(count.bit_length())), count})


class Bench:
    """Measures one model.

    Attributes:
        report: the results so far.
        sections: the recorded calls, for a trace file.
        inputs: a description of the inputs of a call; "" before the first call.
    """

    def __init__(
        self,
        model: str,
        *,
        search_space: SearchSpace,
        limits: MeasurementLimits,
        data: str | Mapping[str, Any] = "random",
        shapes: Mapping[str, Shape] | None = None,
        on_row: Callable[[Row], None] | None = None,
        **options: Any,
    ) -> None:
        """Check all arguments; nothing is started.

        Args:
            model: as for :class:`ParallelPredictUtils`.
            search_space: the settings to measure.
            limits: how much to measure.
            data: "random", "zero", or arrays by name.
            shapes: shapes of inputs with open axes; see data.py.
            on_row: called with each row after its measurement.
            options: options of :class:`ParallelPredictUtils`.

        Raises:
            UsageError: if an argument is invalid.
        """
        search_space.check()
        limits.check()
        self._search_space = search_space
        self._limits = limits
        self._data = data
        self._shapes = shapes
        self._on_row = on_row
        self._model = model
        self._options = options
        self._is_on_cluster = options.get("cluster") is not None
        self._devices = [str(device) for device in self._make_runner().devices]
        self._generator: InputGenerator | None = None
        engine = choose_engine([model], options.get("engine")).name
        self.report = Report(model, engine, self._devices)
        self.sections: list[TraceSection] = []
        self.inputs = ""

    def run(self) -> Report:
        """Measure all settings, and return the report.

        Raises the exceptions of building and predicting, and KeyboardInterrupt; ``report`` then has the results so far.

        Raises:
            UsageError: if no inputs can be created for the model, or too few calls completed in the duration.
        """
        if self._is_on_cluster:
            self._find_devices()
        for instances in self._search_space.instances:
            for count in [len(self._devices)] if self._search_space.is_all else numbers_of_devices(len(self._devices)):
                with self._make_runner(count, instances) as runner:
                    for setting in self._settings(runner, count, instances):
                        self._measure(runner, setting)
        return self.report

    def _make_runner(self, count: int | None = None, instances: int = 1) -> ParallelPredictUtils:
        """Return a runner on the first devices; None: on all."""
        if self._is_on_cluster:
            from .on_cluster import make_cluster_runner

            return make_cluster_runner(self._model, count, {**self._options, "instances": instances})
        devices = self._options.get("devices") if count is None else self._devices[:count]
        return ParallelPredictUtils(self._model, **{**self._options, "devices": devices, "instances": instances})

    def _find_devices(self) -> None:
        """Ask the cluster for its devices."""
        with self._make_runner() as runner:
            self._devices = self.report.devices = [str(device) for device in runner.devices]

    def _settings(self, runner: ParallelPredictUtils, devices: int, instances: int) -> Iterator[Setting]:
        if self._generator is None:
            axes = self._options.get("batch_axes")
            self._generator = InputGenerator(runner.inputs, kind=self._data, shapes=self._shapes, batch_axes=axes)
        for batch_size in self._batch_sizes(self._generator):
            for in_flight in self._search_space.in_flight:
                yield Setting(devices, batch_size, instances, in_flight)

    def _batch_sizes(self, generator: InputGenerator) -> Sequence[int]:
        wanted, given = self._search_space.batch_sizes, generator.given_rows
        if given is None:
            factors = self._search_space.batch_factors or [max(self._search_space.instances)]
            return wanted or [generator.rows_at_a_time * len(self._devices) * factor for factor in factors]
        if wanted and list(wanted) != [given]:
            raise UsageError(
                f"the batch size is {', '.join(map(str, wanted))}, but the inputs that were given have {given} rows; "
                "leave the batch size out, or write ? for the rows in --input-shape"
            )
        return [given]

    def _measure(self, runner: ParallelPredictUtils, setting: Setting) -> None:
        """Measure a setting and add its row, also after an interrupt if enough calls completed."""
        assert self._generator is not None
        inputs = self._generator.make(setting.batch_size)
        self.inputs = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in inputs.items())
        load = LoadGenerator(runner, inputs, setting.in_flight)
        samples = Samples()
        warmup = max(_MIN_WARMUP, 2 * setting.in_flight) if self._limits.warmup is None else self._limits.warmup
        started_ns = load.warm_up(warmup)
        before = runner.stats()["workers"]
        try:
            load.run(samples, started_ns, self._limits.is_enough)
        except KeyboardInterrupt:
            if len(samples) >= figures.MIN_CALLS:
                self._take(self._row(setting, samples, before, runner, is_partial=True))
            raise
        if len(samples) < figures.MIN_CALLS:
            raise self._too_few(setting, samples)
        row = self._row(setting, samples, before, runner)
        try:
            load.drain()
            if self._limits.with_trace:
                self._trace(runner, load, row)
        finally:
            self._take(row)

    def _row(
        self, setting: Setting, samples: Samples, before: Any, runner: ParallelPredictUtils, *, is_partial: bool = False
    ) -> Row:
        after = runner.stats()["workers"]
        rows_of = dict.fromkeys(map(str, runner.devices), 0)
        for worker, told in after.items():
            device = worker.partition("#")[0]  # on a cluster, a host may have taken the place of a lost one
            rows_of[device] = rows_of.get(device, 0) + told["rows"] - before.get(worker, {"rows": 0})["rows"]
        started_ns, ended_ns = samples.started_ns, samples.ends_ns[-1]
        calls_per_s = figures.throughput(len(samples), started_ns, ended_ns)
        rows_per_s = calls_per_s * setting.batch_size
        return Row(
            setting,
            calls=len(samples),
            duration_s=(ended_ns - started_ns) / 1e9,
            rows_per_s=rows_per_s,
            calls_per_s=calls_per_s,
            spread=figures.spread(started_ns, samples.ends_ns),
            latency_ms=figures.percentiles_ms(samples.latencies_ns, self._limits.percentiles),
            efficiency=self._efficiency(setting, rows_per_s),
            rows_per_s_of=figures.distribute(rows_per_s, rows_of),
            restarts=sum(
                told["restarts"] - before.get(worker, {"restarts": 0})["restarts"] for worker, told in after.items()
            ),
            is_partial=is_partial,
        )

    def _efficiency(self, setting: Setting, rows_per_s: float) -> float | None:
        if setting.devices == 1:
            return 1.0
        alone = [row.rows_per_s for row in self.report.rows if row.setting == setting._replace(devices=1)]
        return figures.efficiency(rows_per_s, setting.devices, alone[0]) if alone else None

    def _trace(self, runner: ParallelPredictUtils, load: LoadGenerator, row: Row) -> None:
        """Repeat some of the calls with recording; the measurement itself runs without."""
        trace = runner.trace = Trace()
        try:
            load.warm_up(
                max(figures.MIN_CALLS, 2 * row.setting.in_flight, min(row.calls // _TRACED_SHARE, _MAX_TRACED))
            )
            load.drain()
        finally:
            runner.trace = None
        calls = trace.calls()
        row.host_overhead_us = host_overhead_us(calls)
        # Records of a cluster name the host that computed, not the device: so the devices' own shares are not known.
        devices = [] if self._is_on_cluster else list(map(str, runner.devices))
        row.breakdown = break_down(calls, dict.fromkeys(devices, row.setting.instances))
        self.sections.append(TraceSection(row.setting.in_words(), calls, trace.dropped))

    def _take(self, row: Row) -> None:
        self.report.rows.append(row)
        if self._on_row is not None:
            self._on_row(row)

    def _too_few(self, setting: Setting, samples: Samples) -> UsageError:
        took_s = (samples.ends_ns[-1] - samples.started_ns) / 1e9
        needed_s = math.ceil(2 * figures.MIN_CALLS * took_s / len(samples))
        calls = "1 call" if len(samples) == 1 else f"{len(samples)} calls"
        return UsageError(
            f"only {calls} ended in {self._limits.duration_s:g} s with {setting.in_words()}; figures need at least "
            f"{figures.MIN_CALLS}: give --duration-s {needed_s}, or --requests {figures.MIN_CALLS}"
        )
