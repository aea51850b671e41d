"""One run over a list of files: ties together the files, the manifest and the workers."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ascend_parallel.backends.processes.start import StartedAhead
from ascend_parallel.backends.worker_environment import THREAD_VARIABLES, environment, threads_of_each
from ascend_parallel.devices import Device
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import add_precision, check_devices, check_workers, choose_devices, load_engine
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.worker.engines import ENGINES
from ascend_parallel.worker.pipelines.payload import FILES, RECORDS

from .files import File
from .manifest import MANIFEST, RESULTS, SETTINGS, RunManifest
from .mapper import Mapper
from .ops_mapper import OpsMapper
from .ops_runner import OpsRunner
from .outcome import Outcome
from .settings import MapSettings, is_of_ops
from .spec import PipelineSpec, read_pipeline

__all__ = ["MapRun"]

#: How often a failed build of the pipeline is repeated before its device is given up.
_MAX_RESTARTS = 5


class MapRun:
    """A run of a pipeline over files.

    Attributes:
        files: the files to process; without those that an earlier run has processed.
        total: the number of all files.
        failures: name -> reason, of the files that failed in an earlier run.
        manifest: the manifest; None if results are returned.
        notes: what workers had to say to the user, each once; grows while the run goes on.
    """

    def __init__(self, files: Sequence[File], settings: MapSettings, started: StartedAhead | None = None) -> None:
        """Check all arguments; nothing is started or written.

        Args:
            files: the files, with unique names.
            settings: everything else.
            started: the workers' processes, where they were started ahead.

        Raises:
            UsageError: if an argument is invalid.
        """
        self._settings = settings
        self._runner, settings_of_results = _make_runner(settings, started)
        self.total = len(files)
        if settings.cluster is not None:
            from .on_cluster import whole_file

            files = [whole_file(file) for file in files]
        self.files = list(files)
        self.failures: dict[str, str] = {}
        self.notes: dict[str, None] = {}
        self.manifest: RunManifest | None = None
        if settings.output_dir is not None:
            check_output_names(files, settings)
            self.manifest = RunManifest(settings.output_dir, settings_of_results, with_results=settings.keep == "lines")
            self.manifest.read(resume=settings.resume, retry_failed=settings.retry_failed)
            done = self.manifest.done
            self.files = [file for file in files if file.name not in done]
            failed = self.manifest.failures
            self.failures = {file.name: failed[file.name] for file in files if file.name in failed}

    @property
    def devices(self) -> Sequence[Device | str]:
        """The devices of the workers; on a cluster, empty before the run."""
        return self._runner.devices

    @property
    def workers(self) -> int:
        """The number of workers; on a cluster, 0 before the run, and then it changes as hosts come and go."""
        if isinstance(self._runner, OpsRunner):
            return self._runner.workers
        return len(self.devices) * self._settings.instances_per_device

    @property
    def threads(self) -> tuple[int, dict[str, str]] | None:
        """Threads per worker, and the variables of the environment that set another number: variable -> value.

        None for a pipeline of ops, each of which has threads of its own.
        """
        if isinstance(self._runner, OpsRunner):
            return None
        threads = threads_of_each(self.workers)
        environ = environment(threads)
        return threads, {name: environ[name] for name in THREAD_VARIABLES if environ[name] != str(threads)}

    def run(self) -> Generator[list[Outcome], None, None]:
        """Start the workers; yield lists of outcomes in the order of completion, after they are in the manifest.

        Raises:
            WorkerError: if the pipeline could not be built, or no device is left.
            DiskError: if the output folder accepts no more files.
        """
        if not self.files:
            return
        settings = self._settings
        try:
            if self.manifest is not None and settings.cluster is not None:
                self.manifest.open()  # by the manifest, hosts see whether they share the output folder
            with self._runner as runner:
                if self.manifest is not None and settings.cluster is None:
                    self.manifest.open()
                for done in self._make_mapper(runner).run():
                    self.notes.update(dict.fromkeys(done.notes))
                    if self.manifest is not None:
                        self.manifest.add(done.outcomes, done.lines)
                    yield done.outcomes
        finally:
            if self.manifest is not None:
                self.manifest.close()

    def _make_mapper(self, runner: ParallelPredictUtils | OpsRunner) -> Mapper | OpsMapper:
        settings = self._settings
        if isinstance(runner, OpsRunner):
            return OpsMapper(runner, self.files, writer_options=_writer_options(settings), max_ahead=settings.max_ahead)
        return Mapper(
            runner,
            self.files,
            workers=lambda: max(1, self.workers),
            batch_size=settings.batch_size,
            timeout_s=settings.timeout_s,
            keep=settings.keep,
            max_ahead=settings.max_ahead,
        )


class _Runner(ParallelPredictUtils):
    """A runner that does not count the end of a worker against its device: the cause is usually a file."""

    def __init__(self, *args: Any, started: StartedAhead | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._started_ahead = started
        self._limits = self._limits._replace(blames_device=False)


def _add_precision(spec: PipelineSpec, settings: MapSettings) -> PipelineSpec:
    """Return the pipeline with the precision among the options of the model file's engine; raises UsageError."""
    if settings.precision is None:
        return spec
    if spec.engine == "pipeline":
        raise UsageError(f"precision is for model files; {spec.model} chooses its own: leave precision out")
    if settings.cluster is None:
        devices = choose_devices(settings.devices, None, ENGINES[spec.engine])
    else:
        from .on_cluster import device_of_type

        devices = [device_of_type(settings.devices, ENGINES[spec.engine])]
    engine = load_engine(spec.options["engine"])
    check_devices(devices, engine)
    options = add_precision(spec.options["pipeline_options"], settings.precision, engine, [spec.model], devices)
    return spec._replace(options={**spec.options, "pipeline_options": options})


def _make_runner(
    settings: MapSettings, started: StartedAhead | None
) -> tuple[ParallelPredictUtils | OpsRunner, dict[str, object]]:
    """Return what runs the pipeline, and the settings that results depend on; raises UsageError."""
    if is_of_ops(settings.pipeline):
        ops_runner = OpsRunner(settings)
        return ops_runner, _settings_of_results(ops_runner.told, settings)
    spec = _add_precision(read_pipeline(settings), settings)
    runner = _make_worker_runner(spec, settings, started)
    engine = load_engine(spec.options.get("engine", spec.engine))
    check_devices(runner.devices, engine)
    check_workers(settings.workers, engine, settings.worker_python, settings.share_weights)
    return runner, _settings_of_results({"pipeline": spec.model, **spec.options}, settings)


def _writer_options(settings: MapSettings) -> dict[str, Any]:
    """Return how results are kept, as writers are told."""
    told: dict[str, Any] = {"keep": settings.keep}
    if settings.output_dir is not None:
        told["output_dir"] = os.path.abspath(settings.output_dir)
    return told


def _make_worker_runner(
    spec: PipelineSpec, settings: MapSettings, started: StartedAhead | None
) -> ParallelPredictUtils:
    engine_options = {**spec.options, "batch_size": settings.batch_size, **_writer_options(settings)}
    options = {
        "engine": spec.engine,
        "engine_options": engine_options,
        "instances": settings.instances_per_device,
        "share_weights": settings.share_weights,
        "workers": settings.workers,
        "worker_python": settings.worker_python,
        "batch_axes": {FILES: None, RECORDS: None},
        "predict_timeout_s": settings.timeout_s,
        "max_retries": 0 if settings.workers == "processes" else None,
        "max_restarts": _MAX_RESTARTS if settings.workers == "processes" else None,
    }
    if settings.cluster is not None:
        from .on_cluster import make_cluster_runner

        return make_cluster_runner(spec, settings, options)
    return _Runner(spec.model, started=started, devices=settings.devices, **options)


def _settings_of_results(told: Mapping[str, Any], settings: MapSettings) -> dict[str, object]:
    """Return the settings that results depend on: those of the pipeline, and those of the run."""
    given = {name: value for name, value in told.items() if value}
    folder = {} if settings.input_dir is None else {"input_dir": os.path.abspath(settings.input_dir)}
    return {**given, **folder, "output_format": settings.output_format}


def check_output_names(files: Sequence[File], settings: MapSettings) -> None:
    """Check that no output of one file can have the name of another's, or of the run's own files.

    Raises:
        UsageError: if one can.
    """
    if settings.keep != "files":
        return
    if settings.save is not None:  # a folder for each file
        for file in files:
            if file.name in (MANIFEST, SETTINGS, RESULTS):
                raise UsageError(f"the folder for the outputs of {file.path} would be the run's own file: rename it")
        return
    names = {file.name for file in files}
    for file in files:
        document, _, page = file.name.rpartition("_")
        if document in names and page.isdecimal() and page == str(int(page)):
            raise UsageError(
                f"page {page} of {document} and {file.name} itself would both be saved as {file.name}.json: rename one "
                "of them, or use the output format jsonl, or save, which makes a folder for each file"
            )
