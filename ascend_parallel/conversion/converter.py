"""MindSpore Lite's converter: found, its command written and run, and what it says of a failure put into a sentence.

Two programs take the same words: ``converter_lite`` of MindSpore Lite's package, and ``worker/convert.py``, which
drives the Python ``Converter`` of its wheel. Either is a process of its own, which ends with this one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ascend_parallel.checks import find_python
from ascend_parallel.errors import ConversionError, UsageError
from ascend_parallel.model_manifest import hash_files
from ascend_parallel.worker import convert as program
from ascend_parallel.worker import parent_watch

COMMAND = "converter_lite"
PYTHON_CONVERTER = "mindspore_lite"
VERSION_TIMEOUT_S = 60.0  # an import takes a second, from a cold network disk many
#: Target -> converter_lite's --optimize. "general" is for CPUs and GPUs. Source: its documentation.
OPTIMIZE = {"ascend": "ascend_oriented", "cpu": "general"}
SHOWN_LINES = 3  # of what a failed converter printed
SHOWN_CHARS = 200  # of each

INSTALL = (
    "either put tools/converter/converter of MindSpore Lite's package (from mindspore.cn) on PATH, or 'pip install "
    "mindspore-lite' into a Python that its wheels are made for and name that with --worker-python"
)


class Converter(NamedTuple):
    """A converter that is here.

    Attributes:
        name: "converter_lite" or "mindspore_lite".
        program: the words that start it, as they are shown; the first is found on PATH.
        version: what is known of it.
    """

    name: str
    program: tuple[str, ...]
    version: str


def find_converter(worker_python: str | None) -> Converter:
    """Return converter_lite where it is on PATH, else the Python Converter of the worker's interpreter.

    Raises:
        UsageError: neither is here; the message says what to install.
    """
    command = shutil.which(COMMAND)
    if command is not None:
        return Converter(COMMAND, (COMMAND,), _version_of_command(Path(command)))
    python = find_python(worker_python)
    version = find_runtime(python, f"there is no converter: {COMMAND} is not on PATH")
    return Converter(PYTHON_CONVERTER, (python, program.__file__), version)


def find_runtime(python: str, why: str) -> str:
    """Return the version of an interpreter's mindspore_lite; raises UsageError, which begins with ``why``."""
    try:
        done = _run([python, program.__file__, "--version"], VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{why}, and {python} cannot be run: {error}") from None
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode:
        raise UsageError(f"{why}, and {python} cannot import mindspore_lite ({last}); {INSTALL}")
    return last


def assume_converter(worker_python: str | None) -> Converter:
    """Return a converter to show commands of: the one that is here, else converter_lite."""
    try:
        return find_converter(worker_python)
    except UsageError:
        if worker_python is not None:
            find_python(worker_python)
        return Converter(COMMAND, (COMMAND,), "")


def _version_of_command(path: Path) -> str:
    """Return the version that the package's folder tells, and a hash of the program, which tells builds apart."""
    found = re.search(r"mindspore-lite-(\d[\w.]*)", str(path.resolve()))
    return f"{found[1] if found else 'unknown'} ({hash_files([path])[:12]})"


# ---- its command


def write_command(
    converter: Converter, model: Path, output: Path, *, input_shape: str, target: str, config: Path | None
) -> list[str]:
    """Return the words of a conversion.

    Args:
        converter: which.
        model: the ONNX file.
        output: the MINDIR file to be, without its suffix.
        input_shape: ``x:1,4;y:1``; "" where the model has no inputs with axes.
        target: "ascend" or "cpu".
        config: a configuration file of the converter's.
    """
    words = [*converter.program, f"--modelFile={model}", "--fmk=ONNX", f"--outputFile={output}"]
    words += [f"--inputShape={input_shape}"] if input_shape else []
    words += [f"--optimize={OPTIMIZE[target]}"]
    words += [f"--configFile={config}"] if config else []
    return words


def show_command(command: Iterable[str]) -> str:
    """Return a command as one would type it: ``--inputShape="x:1,4;y:1"``."""
    return " ".join(_quote(word) for word in command)


def _quote(word: str) -> str:
    name, equals, value = word.partition("=")
    if shlex.quote(word) == word:
        return word
    if equals and shlex.quote(name) == name and not re.search(r'["$`\\!\n]', value):
        return f'{name}="{value}"'
    return shlex.quote(word)


# ---- its run


def run_converter(command: Sequence[str], source: Path) -> None:
    """Run a converter to its end; it ends with this process, however that ends.

    Raises:
        ConversionError: it failed; the message has the lines of its log that tell why.
    """
    environ = {"GLOG_v": "3", **os.environ}  # errors only; read when mindspore_lite is loaded, never later
    try:
        done = _run([sys.executable, parent_watch.__file__, str(os.getpid()), *command], None, environ)
    except OSError as error:
        raise ConversionError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ConversionError(
            f"MindSpore Lite could not convert {source}: {find_cause(done.stdout, done.returncode)}", log=done.stdout
        )


def _run(
    command: Sequence[str], timeout_s: float | None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, stdout and stderr as one; it and all that it started are killed with this call's exceptions."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ,
        start_new_session=True,  # a group of its own, to be ended as a whole: CANN's compiler starts others
    )
    with process:
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except BaseException:  # Ctrl-C, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, text)


# ---- what it says of a failure

_LOG_LINE = re.compile(r"\[(?:WARNING|ERROR|CRITICAL|FATAL)\] .*?\[\S+:\d+\] \w+\] ?(?P<message>.*)")
#: Lines that come on success too, or that only say that something failed.
_IDLE = re.compile(
    r"is nullptr|parameter is null|Common error code|NULL pointer returned|Convert model (\S+ )?failed|={5}"
    r"|(funcGraph|func graph|model file|onnx graph|nodes|origin model|pass|transform|optimizer|anf graph|mindir"
    r"|serialize|Save graph) (failed|fail)\b|UNSUPPORTED OP LIST|OP TYPE"
    r"|CONVERT RESULT|Run convert pass|onnx data type",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(r"OP TYPE: (\w+)")
#: Words of a log -> what to do.
_KNOWN = {
    "acl pass": "CANN's libraries are not found: source CANN's set_env.sh, on a machine that has it",
    "libascend_pass_plugin": "CANN's libraries are not found: source CANN's set_env.sh, on a machine that has it",
    "error while loading shared libraries": "add tools/converter/lib of MindSpore Lite's package to LD_LIBRARY_PATH",
    "not support dilations": "pooling with dilations has no kernel there",
    "Read onnx model file failed": "the converter cannot read the ONNX file: it is of a newer kind, or cut off",
}


def find_cause(log: str, exit_code: int) -> str:
    """Return what a failed converter's log tells, as one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    messages = [found["message"] for line in lines if (found := _LOG_LINE.match(line))]
    telling = [message for message in messages if message and not _IDLE.search(message)]
    rest = [line for line in lines if not _LOG_LINE.match(line) and not _IDLE.search(line)]
    shown = list(dict.fromkeys(telling))[:SHOWN_LINES]
    known = {advice for word, advice in _KNOWN.items() if word in log}
    known.update(f"it does not support the operator {kind}" for kind in _UNSUPPORTED.findall(log))
    ended = f"it was ended by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    if not shown and not known:
        shown = rest[-SHOWN_LINES:] or messages[:SHOWN_LINES]
    words = [line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}..." for line in shown]
    return " | ".join([*sorted(known), *words]) or f"it printed nothing ({ended})"
