"""MindSpore Lite's converter: find it, run it, and report its failures in one sentence.

Two programs have the same options: ``converter_lite`` of MindSpore Lite's package, and ``worker/convert.py``, which
uses the Python ``Converter`` of its wheel. Either runs as a separate process, which ends with this one.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ascend_parallel.checks import find_python
from ascend_parallel.errors import ConversionError, UsageError
from ascend_parallel.model_manifest import hash_files
from ascend_parallel.worker import convert as program
from ascend_parallel.worker import parent_watch

COMMAND = "converter_lite"
PYTHON_CONVERTER = "mindspore_lite"
VERSION_TIMEOUT_S = 60.0  # an import takes a second, but much longer from a slow network disk
#: Target -> converter_lite's --optimize. "general" is for CPUs and GPUs. Source: its documentation.
OPTIMIZE = {"ascend": "ascend_oriented", "cpu": "general"}
SHOWN_LINES = 3  # of a failed converter's output
SHOWN_CHARS = 200  # of each line

INSTALL = (
    "either put tools/converter/converter of MindSpore Lite's package (from mindspore.cn) on PATH, or 'pip install "
    "mindspore-lite' into a Python that it has wheels for, and name that Python with --worker-python"
)


class Converter(NamedTuple):
    """A converter that was found.

    Attributes:
        name: "converter_lite" or "mindspore_lite".
        program: the words of the command that start it; the first one is looked up on PATH.
        version: its version, as far as it is known.
    """

    name: str
    program: tuple[str, ...]
    version: str


def find_converter(worker_python: str | None) -> Converter:
    """Return converter_lite if it is on PATH, else the Python Converter of the worker's interpreter.

    Raises:
        UsageError: if there is neither; the message says what to install.
    """
    command = shutil.which(COMMAND)
    if command is not None:
        return Converter(COMMAND, (COMMAND,), _version_of_command(Path(command)))
    python = find_python(worker_python)
    version = find_runtime(python, f"there is no converter: {COMMAND} is not on PATH")
    return Converter(PYTHON_CONVERTER, (python, program.__file__), version)


def find_runtime(python: str, why: str) -> str:
    """Return the version of an interpreter's mindspore_lite; raises UsageError, whose message starts with ``why``."""
    try:
        done = _run([python, program.__file__, "--version"], VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{why}, and {python} cannot be run: {error}") from None
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode:
        raise UsageError(f"{why}, and {python} cannot import mindspore_lite ({last}); {INSTALL}")
    return last


def assume_converter(worker_python: str | None) -> Converter:
    """Return a converter for showing commands: the one that is installed, else converter_lite."""
    try:
        return find_converter(worker_python)
    except UsageError:
        if worker_python is not None:
            find_python(worker_python)
        return Converter(COMMAND, (COMMAND,), "")


def _version_of_command(path: Path) -> str:
    """Return the version in the name of the package's folder, and a hash of the program to distinguish builds."""
    match = re.search(r"mindspore-lite-(\d[\w.]*)", str(path.resolve()))
    return f"{match[1] if match else 'unknown'} ({hash_files([path])[:12]})"


# ---- the command


def write_command(
    converter: Converter, model: Path, output: Path, *, input_shape: str, target: str, config: Path | None
) -> list[str]:
    """Return the command of a conversion.

    Args:
        converter: the converter.
        model: the ONNX file.
        output: the MINDIR file to write, without its suffix.
        input_shape: ``x:1,4;y:1``; "" if the model has no inputs with axes.
        target: "ascend" or "cpu".
        config: a configuration file of the converter.
    """
    words = [*converter.program, f"--modelFile={model}", "--fmk=ONNX", f"--outputFile={output}"]
    words += [f"--inputShape={input_shape}"] if input_shape else []
    words += [f"--optimize={OPTIMIZE[target]}"]
    words += [f"--configFile={config}"] if config else []
    return words


def show_command(command: Iterable[str]) -> str:
    """Return a command as text that can be typed in a shell: ``--inputShape="x:1,4;y:1"``."""
    return " ".join(_quote(word) for word in command)


def _quote(word: str) -> str:
    name, equals, value = word.partition("=")
    if shlex.quote(word) == word:
        return word
    if equals and shlex.quote(name) == name and not re.search(r'["$`\\!\n]', value):
        return f'{name}="{value}"'
    return shlex.quote(word)


# ---- running it


def run_converter(
    command: Sequence[str], source: Path, maker: str, describe_failure: Callable[[str, int], str]
) -> None:
    """Run a converter; it is killed when this process ends for any reason.

    Args:
        command: its words.
        source: the ONNX file, for messages.
        maker: whose converter it is, for messages.
        describe_failure: its output, its exit code -> the cause in one line.

    Raises:
        ConversionError: if it failed; the message contains the informative lines of its log.
    """
    environ = {"GLOG_v": "3", **os.environ}  # errors only; mindspore_lite reads it when it is loaded
    try:
        done = _run([sys.executable, parent_watch.__file__, str(os.getpid()), *command], None, environ)
    except OSError as error:
        raise ConversionError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ConversionError(
            f"{maker} could not convert {source}: {describe_failure(done.stdout, done.returncode)}",
            log=done.stdout,
        )


def _run(
    command: Sequence[str], timeout_s: float | None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with stdout and stderr combined; an exception kills it and all processes that it started."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ,
        start_new_session=True,  # a process group, which can be killed as a whole: CANN's compiler starts processes
    )
    with process:
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except BaseException:  # Ctrl-C, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, text)


# ---- its failures

_LOG_LINE = re.compile(r"\[(?:WARNING|ERROR|CRITICAL|FATAL)\] .*?\[\S+:\d+\] \w+\] ?(?P<message>.*)")
#: Lines that also occur on success, or that only say that something failed.
_UNINFORMATIVE = re.compile(
    r"is nullptr|parameter is null|Common error code|NULL pointer returned|Convert model (\S+ )?failed|={5}"
    r"|(funcGraph|func graph|model file|onnx graph|nodes|origin model|pass|transform|optimizer|anf graph|mindir"
    r"|serialize|Save graph) (failed|fail)\b|UNSUPPORTED OP LIST|OP TYPE"
    r"|CONVERT RESULT|Run convert pass|onnx data type",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(r"OP TYPE: (\w+)")
#: Text in a log -> what to do.
_KNOWN = {
    "acl pass": "CANN's libraries are not found: source CANN's set_env.sh, on a machine that has it",
    "libascend_pass_plugin": "CANN's libraries are not found: source CANN's set_env.sh, on a machine that has it",
    "error while loading shared libraries": "add tools/converter/lib of MindSpore Lite's package to LD_LIBRARY_PATH",
    "not support dilations": "pooling with dilations has no kernel there",
    "Read onnx model file failed": "the converter cannot read the ONNX file: it is incomplete, or of a newer format",
}


def describe_failure(log: str, exit_code: int) -> str:
    """Return the cause of a failed conversion, from the converter's log, as one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    messages = [match["message"] for line in lines if (match := _LOG_LINE.match(line))]
    informative = [message for message in messages if message and not _UNINFORMATIVE.search(message)]
    rest = [line for line in lines if not _LOG_LINE.match(line) and not _UNINFORMATIVE.search(line)]
    shown = list(dict.fromkeys(informative))[:SHOWN_LINES]
    advice_texts = {advice for word, advice in _KNOWN.items() if word in log}
    advice_texts.update(f"it does not support the operator {kind}" for kind in _UNSUPPORTED.findall(log))
    if not shown and not advice_texts:
        shown = rest[-SHOWN_LINES:] or messages[:SHOWN_LINES]
    return join_shortened([*sorted(advice_texts), *shown]) or f"it printed nothing ({exit_text(exit_code)})"


def join_shortened(lines: Iterable[str]) -> str:
    """Return lines as one, each shortened."""
    return " | ".join(line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}..." for line in lines)


def exit_text(exit_code: int) -> str:
    """Return how a converter ended: "exit code 1"."""
    return f"it was ended by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
