"""``ascend-parallel map``: a folder of files through a pipeline, over all devices."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ascend_parallel.checks import check_folder
from ascend_parallel.errors import AscendParallelError, UsageError, WorkerError
from ascend_parallel.mapping.settings import MapSettings

from . import map_options as opt
from .arguments import WorkerPython, read_options

if TYPE_CHECKING:
    from ascend_parallel.mapping.counts import RunCounts
    from ascend_parallel.mapping.files import File
    from ascend_parallel.mapping.progress_view import ProgressView

__all__ = ["map_command"]

#: The exit code where files failed: that of the root of all errors.
SOME_FAILED = AscendParallelError.exit_code_of_cli
#: What a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130
#: Failures that the end report lists; all are in the manifest.
_FAILURES_SHOWN = 20


def map_command(
    pipeline: opt.Pipeline,
    output_dir: opt.OutputDir,
    input_dir: opt.InputDir = None,
    input_list: opt.InputList = None,
    input_glob_pattern: opt.Pattern = None,
    recursive: opt.Recursive = False,
    engine: opt.MapEngine = None,
    devices: opt.MapDevices = None,
    instances_per_device: opt.Instances = 1,
    batch_size: opt.BatchSize = 1,
    option: opt.Options = None,
    preprocess: opt.Preprocess = None,
    postprocess: opt.Postprocess = None,
    output_format: opt.OutputFormat = "files",
    timeout_s: opt.TimeoutS = 600.0,
    resume: opt.Resume = False,
    retry_failed: opt.RetryFailed = False,
    report: opt.ReportFile = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    worker_python: WorkerPython = None,
) -> None:
    """Run a folder of files through a pipeline, over all devices.

    Results go to OUT, named by the whole name of their file; OUT/manifest.jsonl has a line for each file. The exit code
    is 0 only if all files succeeded. After an interruption, --resume does the rest. Such as:

    ascend-parallel map paddlex:OCR --input-dir scans --output-dir out --devices gpu:0,1 --instances-per-device 2
    """
    told: dict[str, Any] = {"engine": engine, "preprocess": preprocess, "postprocess": postprocess}
    told |= {"output_dir": output_dir, "output_format": output_format, "resume": resume, "retry_failed": retry_failed}
    settings = MapSettings(
        pipeline=pipeline,
        devices=devices,
        instances_per_device=instances_per_device,
        batch_size=batch_size,
        options=read_options(option, "--option"),
        timeout_s=timeout_s,
        worker_python=worker_python,
        input_dir=input_dir,
        **told,
    )
    files = list_inputs(input_dir, input_list, input_glob_pattern, recursive, output_dir)
    _Job(files, settings, report, quiet=quiet, verbose=verbose).run()


def list_inputs(
    input_dir: Path | None, input_list: str | None, pattern: str | None, recursive: bool, output_dir: Path
) -> Sequence[File]:
    """Return the files that the options name.

    Raises:
        UsageError: the options contradict each other, or name nothing.
    """
    from ascend_parallel.mapping.files import list_folder, name_files, read_list

    if input_list is None and input_dir is None:
        raise UsageError("there are no inputs: say --input-dir DIR or --input-list FILE")
    if input_dir is not None:
        check_folder("--input-dir", input_dir)
    if input_list is not None:
        if recursive or pattern is not None:
            raise UsageError("--recursive and --input-glob-pattern go with a folder; --input-list names each file")
        return name_files(read_list(input_list), input_dir)
    assert input_dir is not None
    if input_dir.resolve() == output_dir.resolve():
        raise UsageError(
            f"--output-dir is the input folder {input_dir}: outputs would be taken for inputs; name another"
        )
    pattern = "*" if pattern is None else pattern
    return list_folder(input_dir, pattern, recursive=recursive, leave_out=output_dir)


class _Job:
    """A run as a user sees it."""

    def __init__(
        self, files: Sequence[File], settings: MapSettings, report: Path | None, *, quiet: bool, verbose: bool
    ) -> None:
        """Check all that can be checked; raises UsageError."""
        from ascend_parallel.mapping.counts import RunCounts
        from ascend_parallel.mapping.report import Report, check_report
        from ascend_parallel.mapping.run import MapRun

        if quiet and verbose:
            raise UsageError("--quiet and --verbose were both given; choose one")
        if report is not None:
            check_report(report)
        run = MapRun(files, settings)
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
        """Do the work and say what came of it."""
        atexit.register(gc.freeze)  # or Python's end looks for cycles in all modules, thrice: a tenth of a short run
        if self._verbose:
            self._say_plan()
        try:
            self._work()
        except KeyboardInterrupt:
            self._say(f"interrupted: {self._done_so_far()}", always=True)
            raise typer.Exit(INTERRUPTED) from None
        except WorkerError:
            if self._counts.dealt_with:
                self._say(self._done_so_far(), always=True)
            raise
        self._say_end()
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
                            self._say(f"failed: {_show(outcome.file)}: {outcome.error}")
                view.update()

    def _write_report(self) -> None:
        """Draw the report; say so where there is nothing to draw."""
        if self._report is None:
            return
        report, path = self._report
        if not self._counts.dealt_with:
            self._say(f"nothing was done in this run, so that there is no report: {path} was not written")
            return
        report.write(path, self._title, self._failures)
        self._say(f"the report is in {path}")

    # ---- what is said

    def _say(self, text: str, *, always: bool = False) -> None:
        if always or not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def _say_plan(self) -> None:
        run = self._run
        threads, otherwise = run.threads
        self._say(f"{run.total:,} files, {len(run.files):,} to be done, on {', '.join(map(str, run.devices))}")
        told = "".join(f"; {name}={value} is set" for name, value in otherwise.items())
        self._say(f"{_count(run.workers, 'worker')}, {_count(threads, 'thread')} each{told}")

    def _done_so_far(self) -> str:
        done = self._counts.before + self._counts.dealt_with
        if not done:
            return "nothing was done yet"
        return f"{done:,} of {self._counts.total:,} files are done; the same command with --resume does the rest"

    def _say_end(self) -> None:
        counts = self._counts
        before = f"; {counts.before:,} were done before" if counts.before else ""
        if counts.dealt_with:
            self._say(f"{counts.describe_run()}: {counts.describe_devices()}{before}")
        else:
            self._say(f"nothing is left to be done of {counts.total:,} files")
        self._say(f"outputs are in {self._manifest.folder}")
        if self._failures:
            self._say_failures()

    def _say_failures(self) -> None:
        self._say(f"{len(self._failures):,} of {self._counts.total:,} files failed:", always=True)
        shown = list(self._failures.items())[:_FAILURES_SHOWN]
        for name, reason in shown:
            self._say(f"  {_show(name)}: {reason}", always=True)
        if len(self._failures) > len(shown):
            more = len(self._failures) - len(shown)
            self._say(f"  and {more:,} more: see {self._manifest.folder}/manifest.jsonl", always=True)


def open_view(counts: RunCounts, *, quiet: bool) -> ProgressView:
    """Return how progress is shown on stderr: not at all, as a bar on a terminal, elsewhere as lines."""
    from ascend_parallel.mapping.progress_view import ProgressLines, ProgressView

    if quiet:
        return ProgressView(counts)
    if not sys.stderr.isatty():
        return ProgressLines(counts)
    from ascend_parallel.mapping.progress_bar import ProgressBar  # rich takes a while to import

    return ProgressBar(counts)


def _show(name: str) -> str:
    """Return a file's name as one line of text that any terminal takes."""
    return name if name.isprintable() else ascii(name)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def with_dashes(word: str) -> str:
    """Return an option's name as it is spelled here: scripts of Paddle's documents write ``--input_dir``."""
    return word.replace("_", "-")


#: Settings of the command, for typer.
CONTEXT: dict[str, Any] = {"token_normalize_func": with_dashes}
