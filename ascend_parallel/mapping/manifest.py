"""The manifest of a run: one line of JSON per processed file. A resumed run skips the files that it lists.

``OUT/manifest.jsonl`` is the manifest, ``OUT/settings.yaml`` records the settings of the run, and
``OUT/results.jsonl`` holds the results with ``output_format`` "jsonl". A file's line is appended to the manifest after
its results are written, so a file without a line is processed again. An incomplete last line, left by a full disk or
a kill -9, is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii as quote
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_may_be_made
from ascend_parallel.errors import DiskError, UsageError
from ascend_parallel.worker.pipelines.saving import PARTIAL

from .outcome import Outcome

__all__ = ["RunManifest"]

MANIFEST = "manifest.jsonl"
SETTINGS = "settings.yaml"
RESULTS = "results.jsonl"


class RunManifest:
    """The manifest of one output folder.

    Attributes:
        folder: the output folder.
        done: names of the files that earlier runs have processed.
        failures: name -> reason, of those among them that failed.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any], *, with_results: bool) -> None:
        """Check the folder; nothing is written before :meth:`open`.

        Args:
            folder: the output folder; it need not exist.
            settings: the settings that results depend on; a run can be resumed only with the same settings.
            with_results: whether results go to ``results.jsonl``.

        Raises:
            UsageError: if the folder cannot be used for outputs.
        """
        self.folder = Path(folder)
        self.done: set[str] = set()
        self.failures: dict[str, str] = {}
        self._settings = dict(settings)
        self._with_results = with_results
        self._fds: dict[str, int] = {}
        check_may_be_made("the output folder", self.folder)
        self._kept_lines = b""

    def read(self, *, resume: bool, retry_failed: bool = False) -> None:
        """Read the manifest of earlier runs.

        Raises:
            UsageError: if there is a manifest and ``resume`` is False; or if ``resume`` is True, and there is none
                or it belongs to a run with other settings.
        """
        lines = self._read_manifest()
        if not resume:
            if lines:
                raise UsageError(
                    f"{self.folder} contains the outputs of an earlier run ({len(lines)} files in {MANIFEST}): resume "
                    "it (--resume), or name another output folder"
                )
            self._check_results_are_ours()
            return
        if not (self.folder / MANIFEST).is_file():
            raise UsageError(f"there is nothing to resume in {self.folder}: it has no {MANIFEST}; leave --resume out")
        self._check_same_settings()
        kept = []
        for line, entry in lines:
            is_failed = entry["status"] != "ok"
            if entry["file"] in self.done or (is_failed and retry_failed):
                continue
            kept.append(line)
            self.done.add(entry["file"])
            if is_failed:
                self.failures[entry["file"]] = entry["reason"]
        self._kept_lines = b"".join(kept)

    def _read_manifest(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Return the complete lines of the manifest with their parsed entries; [] if there is no manifest."""
        try:
            data = (self.folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DiskError(f"{self.folder / MANIFEST} could not be read: {error.strerror}") from error
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        try:
            return [(line, _checked(json.loads(line))) for line in lines]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{self.folder / MANIFEST} is not a manifest of this program; name another folder"
            ) from None

    def _check_results_are_ours(self) -> None:
        results = self.folder / RESULTS
        if self._with_results and results.exists() and not (self.folder / MANIFEST).exists():
            raise UsageError(f"{results} exists without a {MANIFEST}: move it away, or name another output folder")

    def _check_same_settings(self) -> None:
        import yaml

        try:
            before = yaml.safe_load((self.folder / SETTINGS).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"{self.folder / SETTINGS} cannot be read ({error}); it is needed to resume") from None
        now = _plain(self._settings)
        for name in [*now, *before]:
            if now.get(name) != before.get(name):
                raise UsageError(
                    f"{self.folder} was created with {name} {before.get(name)!r}, not {now.get(name)!r}: its outputs "
                    "would not be consistent; use the same settings, or name another output folder"
                )

    # ---- writing

    def open(self) -> None:
        """Create the folder and its files, and remove what an interrupted run has left incomplete.

        Raises:
            UsageError: if another run is writing to the folder.
            DiskError: if the folder is not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.folder / MANIFEST, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._fds[MANIFEST] = fd
            self._lock(fd)
            self.remove_partial_files()
            self._write_settings()
            if os.pread(fd, len(self._kept_lines) + 1, 0) != self._kept_lines:
                self._replace(MANIFEST, self._kept_lines)
            if self._with_results:
                self._replace(RESULTS, self._kept_results())
        except OSError as error:
            raise _disk_error(self.folder, error) from error

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another run is writing to {self.folder}; wait for it, or name another folder") from None

    def _replace(self, name: str, data: bytes) -> None:
        """Replace a file atomically, and append to the new one from now on."""
        partial = self.folder / f"{PARTIAL}{name}"
        partial.write_bytes(data)
        fd = os.open(partial, os.O_RDWR | os.O_APPEND)
        if name == MANIFEST:
            self._lock(fd)
        partial.replace(self.folder / name)
        if name in self._fds:
            os.close(self._fds[name])
        self._fds[name] = fd

    def _kept_results(self) -> bytes:
        """Return the lines of results whose files the manifest lists as done, without duplicates."""
        names = self.done - self.failures.keys()
        kept = []
        path = self.folder / RESULTS
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if line.endswith(b"\n"):
                name = json.loads(line)["file"]
                if name in names:
                    names.discard(name)
                    kept.append(line)
        return b"".join(kept)

    def _write_settings(self) -> None:
        import yaml

        partial = self.folder / f"{PARTIAL}{SETTINGS}"
        partial.write_text(yaml.safe_dump(_plain(self._settings), sort_keys=False))
        partial.replace(self.folder / SETTINGS)

    def add(self, outcomes: Iterable[Outcome], lines_of_results: bytes = b"") -> None:
        """Append the outcomes of some files, after their results.

        Raises:
            DiskError: if they could not be written.
        """
        if lines_of_results:
            self._append(RESULTS, lines_of_results)
        now_s = round(time.time(), 3)
        self._append(MANIFEST, b"".join([_line(outcome, now_s) for outcome in outcomes]))

    def _append(self, name: str, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fds[name], data) :]
        except OSError as error:
            raise _disk_error(self.folder / name, error) from error

    def remove_partial_files(self) -> None:
        """Remove the partial files and folders that killed workers have left."""
        for folder, folders, names in os.walk(self.folder):
            for name in [each for each in folders if each.startswith(PARTIAL)]:
                shutil.rmtree(Path(folder) / name, ignore_errors=True)
                folders.remove(name)
            for name in names:
                if name.startswith(PARTIAL):
                    (Path(folder) / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _disk_error(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path} could not be written: {error.strerror or error}; finished files are recorded in {MANIFEST}: solve the "
        "problem, and run the same command again with --resume"
    )


def _checked(entry: Any) -> dict[str, Any]:
    if not isinstance(entry["file"], str) or (entry["status"] != "ok" and not isinstance(entry["reason"], str)):
        raise TypeError
    return dict(entry)


def _plain(settings: Mapping[str, Any]) -> Any:
    """Return settings with the types that YAML returns."""
    return json.loads(json.dumps(settings))


def _line(outcome: Outcome, now_s: float) -> bytes:
    # Not json.dumps of a dict: this takes a fifth of its time, for each of millions of files.
    if outcome.ok:
        outputs = ", ".join([quote(output) for output in outcome.outputs])
        status = f'"ok", "outputs": [{outputs}]'
    else:
        status = f'"error", "reason": {quote(outcome.error)}'
    text = f'{{"file": {quote(outcome.file)}, "status": {status}, "seconds": {outcome.seconds}, '
    return f'{text}"device": {quote(outcome.device)}, "finished": {now_s}}}\n'.encode()
