"""``ascend-parallel map``: run a pipeline over a folder of files, on all devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ascend_parallel.checks import check_folder
from ascend_parallel.errors import AscendParallelError, UsageError, WorkerError
from ascend_parallel.mapping.settings import MapSettings
from ascend_parallel.mapping.start_ahead import start_ahead

from . import map_options as opt
from .arguments import Cluster, NumDevices, Precision, ShareWeights, WorkerPython, read_options

if TYPE_CHECKING:
    from ascend_parallel.backends.processes.start import StartedAhead
    from ascend_parallel.mapping.counts import RunCounts
    from ascend_parallel.mapping.files import File
    from ascend_parallel.mapping.progress_view import ProgressView

__all__ = ["map_command"]

#: The exit code if files failed: that of the base class of all errors.
SOME_FAILED = AscendParallelError.exit_code_of_cli
#: The exit code that a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130
#: How many failures the summary lists; all are in the manifest.
_FAILURES_SHOWN = 20


def map_command(
    pipeline: opt.Pipeline,
    output_dir: opt.OutputDir,
    name: opt.Name = None,
    input_dir: opt.InputDir = None,
    input_list: opt.InputList = None,
    input_glob_pattern: opt.Pattern = None,
    recursive: opt.Recursive = False,
    engine: opt.MapEngine = None,
    devices: opt.MapDevices = None,
    instances_per_device: opt.Instances = 1,
    batch_size: opt.BatchSize = 1,
    option: opt.Options = None,
    precision: Precision = None,
    predict_option: opt.PredictOptions = None,
    pages: opt.Pages = "separate",
    preprocess: opt.Preprocess = None,
    postprocess: opt.Postprocess = None,
    output_format: opt.OutputFormat = "files",
    save: opt.Save = None,
    timeout_s: opt.TimeoutS = 600.0,
    resume: opt.Resume = False,
    retry_failed: opt.RetryFailed = False,
    report: opt.ReportFile = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    workers: opt.MapWorkers = "processes",
    share_weights: ShareWeights = False,
    worker_python: WorkerPython = None,
    cluster: Cluster = None,
    num_devices: NumDevices = None,
) -> None:
    """Run a pipeline over a folder of files, on all devices.

    The outputs go to OUT. The name of an output is the whole name of its input file plus a suffix. OUT/manifest.jsonl
    has one line per file. The exit code is 0 only if all files succeeded. To continue an interrupted run, repeat the
    command with --resume. Example:

    ascend-parallel map paddlex:OCR --input-dir scans --output-dir out --devices gpu:0,1 --instances-per-device 2
    """
    options = read_options(option, "--option")
    predict_options = read_options(predict_option, "--predict-option")
    settings = MapSettings.pick(locals())
    with start_ahead(settings) as started:
        files = list_inputs(input_dir, input_list, input_glob_pattern, recursive, output_dir)
        _Job(files, settings, report, started, quiet=quiet, verbose=verbose).run()


def list_inputs(
    input_dir: Path | None, input_list: str | None, pattern: str | None, recursive: bool, output_dir: Path
) -> Sequence[File]:
    """Return the input files that the options specify.

    Raises:
        UsageError: if the options contradict each other, or specify no files.
    """
    from ascend_parallel.mapping.files import list_folder, name_files, read_list

    if input_list is None and input_dir is None:
        raise UsageError("there are no inputs; use --input-dir DIR or --input-list FILE")
    if input_dir is not None:
        check_folder("--input-dir", input_dir)
    if input_list is not None:
        if recursive or pattern is not None:
            raise UsageError("--recursive and --input-glob-pattern apply to a folder; --input-list names each file")
        return name_files(read_list(input_list), input_dir)
    assert input_dir is not None
    if input_dir.resolve() == output_dir.resolve():
        raise UsageError(
            f"--output-dir is the input folder {input_dir}: outputs would be mistaken for inputs; name another folder"
        )
    pattern = "*" if pattern is None else pattern
    return list_folder(input_dir, pattern, recursive=recursive, leave_out=output_dir)


class _Job:
    """The run, with its progress, summary and report."""

    def __init__(
        self,
        files: Sequence[File],
        settings: MapSettings,
        report: Path | None,
        started: StartedAhead,
        *,
        quiet: bool,
        verbose: bool,
    ) -> None:
        """Check all arguments; raises UsageError."""
        from ascend_parallel.mapping.counts import RunCounts
        from ascend_parallel.mapping.report import Report, check_report
        from ascend_parallel.mapping.run import MapRun

        if quiet and verbose:
            raise UsageError("--quiet and --verbose were both given; choose one")
        if report is not None:
            check_report(report)
        run = MapRun(files, settings, started)
        assert run.manifest is not None
        self._run = run
        self._manifest = run.manifest
        self._title = settings.pipeline
        self._quiet = quiet
        self._verbose = verbose
        self._counts = RunCounts(run.total, run.total - len(run.files))
        self._report = (Report(self._counts), report) if report is not None else None
        self._failures = dict(run.failures)

    def run(self) -> None:
        """Process the files and print the summary."""
        if self._verbose:
            self._print_plan()
        try:
            self._work()
        except KeyboardInterrupt:
            self._print(f"interrupted: {self._describe_progress()}", always=True)
            raise typer.Exit(INTERRUPTED) from None
        except WorkerError:
            if self._counts.dealt_with:
                self._print(self._describe_progress(), always=True)
            raise
        self._print_summary()
        self._write_report()
        if self._failures:
            raise typer.Exit(SOME_FAILED)

    def _work(self) -> None:
        with open_view(self._counts, quiet=self._quiet) as view:
            for outcomes in self._run.run():
                self._counts.add(outcomes)
                if self._report is not None:
                    self._report[0].add(outcomes)
                for outcome in outcomes:
                    if not outcome.ok:
                        self._failures[outcome.file] = outcome.error
                        if self._verbose:
                            self._print(f"failed: {_show(outcome.file)}: {outcome.error}")
                view.update()
        for note in self._run.notes:
            self._print(f"note: {note}")

    def _write_report(self) -> None:
        """Write the report; if no file was processed, print that there is none."""
        if self._report is None:
            return
        report, path = self._report
        if not self._counts.dealt_with:
            self._print(f"no file was processed in this run, so there is no report: {path} was not written")
            return
        report.write(path, self._title, self._failures)
        self._print(f"the report is in {path}")

    # ---- output on stderr

    def _print(self, text: str, *, always: bool = False) -> None:
        if always or not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def _print_plan(self) -> None:
        run = self._run
        if not run.devices:
            self._print(f"{run.total:,} files, {len(run.files):,} to process, on a cluster")
            return
        self._print(f"{run.total:,} files, {len(run.files):,} to process, on {', '.join(map(str, run.devices))}")
        if run.threads is None:
            self._print(f"{_count(run.workers, 'worker')} of the pipeline's ops")
            return
        threads, other_values = run.threads
        note = "".join(f"; {name}={value} is set" for name, value in other_values.items())
        self._print(f"{_count(run.workers, 'worker')}, {_count(threads, 'thread')} each{note}")

    def _describe_progress(self) -> str:
        done = self._counts.before + self._counts.dealt_with
        if not done:
            return "no file is done yet"
        return (
            f"{done:,} of {self._counts.total:,} files are done; repeat the command with --resume to process the rest"
        )

    def _print_summary(self) -> None:
        counts = self._counts
        before = f"; {counts.before:,} were done before" if counts.before else ""
        if counts.dealt_with:
            self._print(f"{counts.describe_run()}: {counts.describe_devices()}{before}")
        else:
            self._print(f"nothing to do: all {counts.total:,} files were processed before")
        self._print(f"outputs are in {self._manifest.folder}")
        if self._failures:
            self._print_failures()

    def _print_failures(self) -> None:
        self._print(f"{len(self._failures):,} of {self._counts.total:,} files failed:", always=True)
        shown = list(self._failures.items())[:_FAILURES_SHOWN]
        for name, reason in shown:
            self._print(f"  {_show(name)}: {reason}", always=True)
        if len(self._failures) > len(shown):
            more = len(self._failures) - len(shown)
            self._print(f"  and {more:,} more: see {self._manifest.folder}/manifest.jsonl", always=True)


def open_view(counts: RunCounts, *, quiet: bool) -> ProgressView:
    """Return the progress view for stderr: none if quiet, a bar on a terminal, lines otherwise."""
    from ascend_parallel.mapping.progress_view import ProgressLines, ProgressView

    if quiet:
        return ProgressView(counts)
    if not sys.stderr.isatty():
        return ProgressLines(counts)
    from ascend_parallel.mapping.progress_bar import ProgressBar  # a late import: rich is slow to import

    return ProgressBar(counts)


def _show(name: str) -> str:
    """Return a file's name as one line of printable text."""
    return name if name.isprintable() else ascii(name)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def with_dashes(word: str) -> str:
    """Return an option's name with dashes: the scripts in Paddle's documentation write ``--input_dir``."""
    return word.replace("_", "-")


#: typer's settings of this command.
CONTEXT: dict[str, Any] = {"token_normalize_func": with_dashes}
