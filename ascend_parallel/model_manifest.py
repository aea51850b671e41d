"""The manifest of a MINDIR or OM file: what ``X.mindir`` was converted from and for, in ``X.mindir.json`` beside it.

``ascend-parallel convert`` writes the manifest. The runner reads it before it starts workers, so that a model for other
devices is reported in one sentence and not by an engine's "Common error code". The manifest is optional.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ascend_parallel.devices import Device
from ascend_parallel.errors import UsageError

__all__ = [
    "DEVICE_TYPES",
    "FORMAT",
    "InputRecord",
    "Manifest",
    "SavedFile",
    "check_manifest",
    "hash_files",
    "read_manifest",
]

#: The version of the manifest's layout. A newer one is refused.
FORMAT = 1
SUFFIX = ".json"
#: Conversion target -> device types that run the model. Source: converter_lite's documentation of --optimize.
DEVICE_TYPES = {"ascend": ("ascend",), "cpu": ("cpu", "gpu")}
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class InputRecord:
    """One input.

    Attributes:
        name: its name.
        dtype: its dtype in the ONNX file.
        shape: its shape in the converted file; that of the largest batch, if it has several.
        batch_axis: its batch axis; None: it is not sliced.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    batch_axis: int | None


@dataclass(frozen=True)
class SavedFile:
    """A file as it was written: its path, relative to the manifest's folder, and what identifies its content."""

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, file: Path, folder: Path) -> SavedFile:
        """Return the record of a file, for a manifest in ``folder``."""
        status = file.stat()
        path = os.path.relpath(file.resolve(), folder.resolve())
        return cls(path, status.st_size, status.st_mtime_ns, hash_files([file]))

    def is_unchanged(self, folder: Path) -> bool:
        """Whether the file still has the recorded content; it is hashed only if its modification time differs."""
        file = folder / self.path
        try:
            status = file.stat()
            if status.st_size != self.size_bytes:
                return False
            return status.st_mtime_ns == self.mtime_ns or hash_files([file]) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True)
class Manifest:
    """What a MINDIR or OM file was converted from and for.

    Attributes:
        source: the ONNX file's path, relative to the manifest's folder.
        source_sha256: the hash of the ONNX file followed by its external weight files.
        target: "ascend" or "cpu".
        precision: the requested precision: "fp16", or None.
        rows: rows of the model's batch.
        inputs: the inputs, in the model's order.
        shape_options: the options of ``ascend-parallel convert`` that determined the shapes.
        converter: "converter_lite", "mindspore_lite" (its Python interface) or "atc".
        converter_version: such as "2.0.0".
        recipe: a hash of everything else that the result depends on.
        changes: what was rewritten for MindSpore Lite's CPU kernels: operator -> count.
        soc_version: the chip that an OM file is for; "" for a MINDIR file.
        files: the converted file first, then its external weight files, if it has any.
    """

    source: str
    source_sha256: str
    target: str
    precision: str | None
    rows: int
    inputs: tuple[InputRecord, ...]
    shape_options: tuple[str, ...]
    converter: str
    converter_version: str
    recipe: str
    changes: Mapping[str, int] = field(default_factory=dict)
    soc_version: str = ""
    files: tuple[SavedFile, ...] = ()

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    def are_files_unchanged(self, folder: Path) -> bool:
        """Whether the files of the model in ``folder`` are unchanged since the conversion."""
        return bool(self.files) and all(file.is_unchanged(folder) for file in self.files)

    @property
    def batch_axes(self) -> dict[str, int | None]:
        """The batch axes that the runner cannot derive from shapes: of inputs without rows, or with rows off axis 0.

        Inputs with rows on axis 0 are left out: the runner derives those, and they may also be broadcast.
        """
        return {item.name: item.batch_axis for item in self.inputs if item.batch_axis != 0}

    def describe_remedy(self, mindir: Path, devices: Sequence[Device]) -> str:
        """Return how to get the model for these devices: "convert ... again: ascend-parallel convert ..."."""
        source = os.path.normpath(mindir.parent / self.source)
        gone = "" if os.path.isfile(source) else ", which no longer exists,"
        has_several_sizes = "--dynamic-batch-size" in self.shape_options
        words = [
            *("ascend-parallel", "convert", source, "--devices", _join(devices)),
            *([] if has_several_sizes else ["--batch-per-device", str(self.rows)]),
            *(*self.shape_options, "--output", str(mindir)),
        ]
        return f"convert {source}{gone} again: {shlex.join(words)}"


def manifest_file(mindir: Path) -> Path:
    """Return the path of a MINDIR file's manifest."""
    return mindir.with_name(mindir.name + SUFFIX)


def read_manifest(mindir: Path) -> Manifest | None:
    """Return the manifest of a MINDIR file; None if it has none.

    Raises:
        UsageError: if the manifest is unreadable, or of a newer format.
    """
    file = manifest_file(mindir)
    try:
        content = json.loads(file.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise UsageError(
                f"{file} has format {content['format']}, but this version reads format {FORMAT}: upgrade "
                "ascend-parallel, or delete the file"
            )
        return _from_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file} is not a readable manifest: convert the model again, or delete the file") from None


def _from_json(content: dict[str, Any]) -> Manifest:
    del content["format"]
    inputs = tuple(InputRecord(**{**item, "shape": tuple(item["shape"])}) for item in content.pop("inputs"))
    files = tuple(SavedFile(**item) for item in content.pop("files"))
    options = tuple(content.pop("shape_options"))
    return Manifest(inputs=inputs, files=files, shape_options=options, **content)


def check_manifest(model: str, devices: Sequence[Device]) -> Manifest | None:
    """Check that a converted file fits these devices and is the one that its manifest describes.

    Returns:
        The manifest; None if there is none.

    Raises:
        UsageError: if the check fails; the message names the ONNX file and the command to convert it again.
    """
    mindir = Path(model)
    manifest = read_manifest(mindir)
    if manifest is None:
        return None
    fitting = DEVICE_TYPES.get(manifest.target, ())
    wrong = [device for device in devices if device.type not in fitting]
    if wrong:
        raise UsageError(
            f"{model} was converted for {manifest.target}, not for {wrong[0]}: "
            f"{manifest.describe_remedy(mindir, devices)}"
        )
    if not manifest.are_files_unchanged(mindir.parent):
        raise UsageError(
            f"{model} is not the file that {manifest_file(mindir).name} describes: delete that manifest, or "
            f"{manifest.describe_remedy(mindir, devices)}"
        )
    return manifest


def hash_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the concatenated files, in hexadecimal (takes about one second per GB)."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    for file in files:
        with contextlib.closing(file.open("rb", buffering=0)) as opened:
            while count := opened.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest()


def _join(devices: Sequence[Device]) -> str:
    """Return devices as a specification, such as ``ascend:0,1``."""
    text, kind = "", ""
    for device in devices:
        text += f",{device.id}" if device.type == kind else f"{',' if text else ''}{device}"
        kind = device.type
    return text
