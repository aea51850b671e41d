"""What is checked of pipelines beyond names, types and ranges, each problem with its path in the configuration."""

from __future__ import annotations

from collections.abc import Iterator

from ascend_parallel.checks import check_file, find_python
from ascend_parallel.errors import UsageError
from ascend_parallel.runner.options import check_files
from ascend_parallel.serving.model_checks import ModelCheck, SettingsCheck
from ascend_parallel.serving.words import Path, dotted
from ascend_parallel.serving.yaml_file import Problem

from .config import PYTHON_ONLY, WITH_MODEL, OpConfig, PipelineConfig
from .graph import find_problems
from .op_runner import OpRunner, op_devices

#: Settings that an op with Python does not have, and what to do instead.
_MODEL_ONLY = {
    "instances": "say in concurrency how many worker processes it has",
    "workers": "Python runs in worker processes",
    "share_weights": "leave it out",
    "batch_axes": "preprocess gives the model its rows along axis 0",
    "warmup": "leave it out",
    "warmup_examples": "leave it out",
}


def check_graph(path: Path, pipeline: PipelineConfig) -> Iterator[Problem]:
    """Yield what is wrong in how the ops of a pipeline read each other."""
    ops = [(op.name, op.inputs) for op in pipeline.ops]
    for problem in find_problems(ops, pipeline.outputs, pipeline.by_op):
        where: Path = path if problem.op is None else (*path, "ops", problem.op)
        where = (*where, *problem.setting)
        yield Problem(where, f"{dotted(where)} {problem.message}")


def check_op(path: Path, op: OpConfig, folder: str) -> list[Problem]:
    """Return what is wrong with an op beside what it reads; its files are found from ``folder``."""
    problems = list(_check_kind(path, op))
    if problems or (op.python is None and op.path is None):
        return problems
    found = op.relative_to(folder)
    if found.python is None:
        return ModelCheck(path, found.model()).run()
    return _PythonOpCheck(path, found).run()


def _check_kind(path: Path, op: OpConfig) -> Iterator[Problem]:
    """Yield settings that an op of this kind does not have: none is ignored."""
    if op.python is None and op.path is None:
        yield Problem(path, f"{dotted(path)} has neither path nor python; expected a model, Python, or both")
        return
    for setting, message in _wrong_for_kind(op).items():
        if setting in op.model_fields_set:
            yield Problem((*path, setting), f"{dotted((*path, setting))} {message}", at_key=True)
    if op.batching.pad and (op.path is None or op.python is None):
        where = (*path, "batching", "pad")
        yield Problem(where, f"{dotted(where)} is for ops with python and a path: only Python can tell what was padded")


def _wrong_for_kind(op: OpConfig) -> dict[str, str]:
    """Return the settings that an op of this kind must not have, and why."""
    wrong: dict[str, str] = {}
    if op.python is None:
        wrong |= dict.fromkeys(PYTHON_ONLY, "is for ops with python, and this one has none")
        wrong["concurrency"] += "; a model has instances"
    else:
        wrong |= {setting: f"is for ops without python: {instead}" for setting, instead in _MODEL_ONLY.items()}
    if op.path is None:
        wrong |= dict.fromkeys(WITH_MODEL, "is for ops with a model, and this one has no path")
    if not op.is_by_op:
        wrong.setdefault("fetch_list", "is for ops whose interface is paddle_serving")
    return wrong


class _PythonOpCheck(SettingsCheck):
    """The checks of an op with Python."""

    def __init__(self, path: Path, op: OpConfig) -> None:
        super().__init__(path, op)
        self._op = op

    def run(self) -> list[Problem]:
        """Return all problems."""
        op = self._op
        assert op.python is not None
        if not all(op.python.rpartition(":")[::2]):
            self._add("python", f"is {op.python!r}; expected module:Class or path/to/file.py:Class")
        elif op.source_file:
            self._try("python", lambda: check_file("file", op.source_file, f" for the op {op.name}"))
        self._try("worker_python", lambda: find_python(op.worker_python))
        self._try("options", self._check_options)
        if op.path is not None:
            self._check_model(op.path)
        else:
            self._try("devices", lambda: op_devices(op))
        if not self._problems:  # whatever else the runner checks
            self._try("python", lambda: OpRunner(op))
        return self._problems

    def _check_options(self) -> None:
        for name in self._op.options:
            if not name.isidentifier():
                raise UsageError(f"{name!r} cannot be the name of a keyword argument")
        if "device" in self._op.options:
            raise UsageError("the keyword argument device is set for each worker process; leave it out")

    def _check_model(self, path: str) -> None:
        op = self._op
        engine = self._choose_engine(path, op.engine)
        if engine is None:
            return
        self._try("path", lambda: check_files([path], engine))
        self._try("devices", lambda: op_devices(op))
        self._check_engine_options(engine, op.engine_options)
