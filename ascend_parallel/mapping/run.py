"""One run over a list of files: the files, the manifest and the workers together."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

from ascend_parallel.runner.options import THREAD_VARIABLES, check_devices, environment, load_engine, threads_of_each
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.worker.pipelines.payload import FILES, RECORDS

from .files import File
from .manifest import RunManifest
from .mapper import Mapper
from .outcome import Outcome
from .settings import MapSettings
from .spec import PipelineSpec, read_pipeline

__all__ = ["MapRun"]

#: How often a pipeline that cannot be built again is tried before its device is given up.
_MAX_RESTARTS = 5


class MapRun:
    """A run of a pipeline over files.

    Attributes:
        files: what is to be done; without what an earlier run has done.
        total: how many files there are with those.
        failures: name -> reason of those among them that failed in an earlier run.
        manifest: the manifest; None where results are handed back.
        devices: where workers run.
        workers: how many.
    """

    def __init__(self, files: Sequence[File], settings: MapSettings) -> None:
        """Check everything that can be checked; nothing is started or written.

        Raises:
            UsageError: an argument is wrong.
        """
        spec = read_pipeline(
            settings.pipeline, settings.engine, settings.options or {}, settings.preprocess, settings.postprocess
        )
        self._settings = settings
        self._runner = _make_runner(spec, settings)
        self.devices = self._runner.devices
        check_devices(self.devices, load_engine(spec.options.get("engine", spec.engine)))
        self.workers = len(self.devices) * settings.instances_per_device
        self.total = len(files)
        self.files = list(files)
        self.failures: dict[str, str] = {}
        self.manifest: RunManifest | None = None
        if settings.output_dir is not None:
            self.manifest = RunManifest(
                settings.output_dir, _settings_of_results(spec, settings), with_results=settings.keep == "lines"
            )
            self.manifest.read(resume=settings.resume, retry_failed=settings.retry_failed)
            done = self.manifest.done
            self.files = [file for file in files if file.name not in done]
            failed = self.manifest.failures
            self.failures = {file.name: failed[file.name] for file in files if file.name in failed}

    @property
    def threads(self) -> tuple[int, dict[str, str]]:
        """How many threads each worker is told to use, and what the environment says otherwise: variable -> value."""
        threads = threads_of_each(self.workers)
        told = environment(threads)
        return threads, {name: told[name] for name in THREAD_VARIABLES if told[name] != str(threads)}

    def run(self) -> Generator[list[Outcome], None, None]:
        """Start the workers and yield outcomes as they come, some at a time, each in the manifest already.

        Raises:
            WorkerError: the pipeline could not be built, or no device is left.
            DiskError: the output folder takes no more files.
        """
        if not self.files:
            return
        settings = self._settings
        try:
            with self._runner as runner:
                if self.manifest is not None:
                    self.manifest.open()
                mapper = Mapper(
                    runner,
                    self.files,
                    workers=self.workers,
                    batch_size=settings.batch_size,
                    timeout_s=settings.timeout_s,
                    keep=settings.keep,
                    max_ahead=settings.max_ahead,
                )
                for done in mapper.run():
                    if self.manifest is not None:
                        self.manifest.add(done.outcomes, done.lines)
                    yield done.outcomes
        finally:
            if self.manifest is not None:
                self.manifest.close()


class _Runner(ParallelPredictUtils):
    """A runner whose tasks, files of all kinds, are to blame for the ends of their workers, and not the devices."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = self._limits._replace(blames_device=False)


def _make_runner(spec: PipelineSpec, settings: MapSettings) -> ParallelPredictUtils:
    told = {**spec.options, "batch_size": settings.batch_size, "keep": settings.keep}
    if settings.output_dir is not None:
        told["output_dir"] = os.path.abspath(settings.output_dir)
    return _Runner(
        spec.model,
        devices=settings.devices,
        engine=spec.engine,
        engine_options=told,
        instances=settings.instances_per_device,
        worker_python=settings.worker_python,
        batch_axes={FILES: None, RECORDS: None},
        predict_timeout_s=settings.timeout_s,
        max_retries=0,
        max_restarts=_MAX_RESTARTS,
    )


def _settings_of_results(spec: PipelineSpec, settings: MapSettings) -> dict[str, object]:
    """Return what results depend on."""
    given = {name: value for name, value in spec.options.items() if value}
    folder = {} if settings.input_dir is None else {"input_dir": os.path.abspath(settings.input_dir)}
    return {"pipeline": spec.model, **given, **folder, "output_format": settings.output_format}
