"""Paddle Serving's config.yml, and the file of Python that goes with it, as a configuration of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ascend_parallel.worker.ops.paddle_stand_ins import REQUEST_NAME

from .notes import Note
from .paddle_graph import read_graph
from .paddle_model import Settings
from .paddle_ops import read_op
from .paddle_settings import DAG, SERVER, check_settings, note_settings
from .paddle_source import PaddleConfig
from .yaml_text import Commented, write_mapping

_DEFAULT_PORT = 8000
#: What the ops for a RequestOp and a ResponseOp of the user's are called.
_UNPACK, _PACK = "unpack_request", "pack_response"
_FILL_IN = "fill in"


class Migrated(NamedTuple):
    """What became of a configuration.

    Attributes:
        text: ours.
        notes: what has no counterpart, in the order of the file.
    """

    text: str
    notes: list[Note]


def migrate(
    config: str, web_service: str | None = None, *, folder: str | None = None, worker_python: str | None = None
) -> Migrated:
    """Return our configuration for one of Paddle Serving.

    Args:
        config: the config.yml.
        web_service: the file of Python that builds the ops; None: the graph is left to be filled in.
        folder: where ours will lie, which its paths begin at; None: where theirs does.
        worker_python: the interpreter that imports ``web_service``, and runs the ops; None: this one.

    Raises:
        UsageError: a file is not there, or cannot be imported.
        ConfigError: the config.yml is wrong; all of it is told, with lines.
    """
    source = PaddleConfig(config)
    check_settings(source)
    graph = None if web_service is None else read_graph(web_service, worker_python)
    note_settings(source, (), SERVER)
    note_settings(source, ("dag",), DAG)
    base = source.folder if folder is None else folder
    writer = _Writer(source, base, web_service or "", worker_python)
    text = writer.write_draft() if graph is None else writer.write(graph)
    return Migrated(text, sorted(source.notes, key=lambda note: (note.place or (1 << 30, 0), note.text)))


class _Writer:
    """Writes our configuration."""

    def __init__(self, source: PaddleConfig, base: str, web_service: str, worker_python: str | None) -> None:
        self._source = source
        self._base = base
        self._web_service = web_service
        self._worker_python = worker_python

    def write(self, graph: Mapping[str, Any]) -> str:
        """Return the configuration of a graph that is known."""
        ops = [self._make_op(op, graph) for op in graph["ops"]]
        if graph["request"]:
            ops.insert(0, self._make_end(_UNPACK, graph["request"], None))
        if graph["response"]:
            ops.append(self._make_end(_PACK, graph["response"], graph["ops"][-1]["name"]))
        self._note_unbuilt([op["name"] for op in graph["ops"]])
        name = graph["service"] or "default_service"
        return self._join({"name": name, "paddle_service": name}, ops)

    def write_draft(self) -> str:
        """Return a configuration without the graph, which only the file of Python knows."""
        self._source.notes.append(
            Note(
                self._source.name,
                None,
                "it does not say which op reads which, nor of which class it is: give --web-service, the file that "
                f"builds the ops; else fill in what is marked {_FILL_IN!r}",
            )
        )
        ops = [
            {
                "name": name,
                "inputs": Commented("request", f"{_FILL_IN}: what it reads"),
                "python": Commented("web_service.py:Class", _FILL_IN),
                "interface": "paddle_serving",
                **self._read_op(name, {}),
            }
            for name in self._source.get(("op",), {})
        ]
        service = Commented("service", f"{_FILL_IN}: the name in URLs")
        return self._join({"name": "service", "paddle_service": service}, ops)

    def _note_unbuilt(self, built: list[str]) -> None:
        for name in self._source.get(("op",), {}):
            if name not in built:
                self._source.note(("op", name), f"is no op that {self._web_service} builds; it is left out")

    # ---- ops

    def _make_op(self, op: Mapping[str, Any], graph: Mapping[str, Any]) -> Settings:
        name, arguments = op["name"], op["arguments"]
        self._note_arguments(name, arguments)
        inputs = self._make_inputs(op["inputs"], bool(graph["request"]))
        settings = self._read_op(name, arguments)
        made: Settings = {"name": name, **({} if inputs == "request" else {"inputs": inputs})}
        if op["python"] is None:
            return made | self._make_plain(name, settings)
        return made | self._make_python(op["python"]) | settings

    def _make_end(self, name: str, python: str, reads: str | None) -> Settings:
        inputs = {} if reads is None else {"inputs": reads}
        return {"name": name, **inputs, **self._make_python(python)}

    def _make_python(self, python: str) -> Settings:
        """Return what runs a class of the file; it is found from the folder of our configuration."""
        _, _, kind = python.rpartition(":")
        found: Settings = {"python": f"{self._relative(self._web_service)}:{kind}", "interface": "paddle_serving"}
        if self._worker_python is not None:
            found["worker_python"] = self._worker_python
        return found

    def _make_plain(self, name: str, settings: Settings) -> Settings:
        """Return an op without Python of its own: a model, whose settings are others."""
        processes = settings.pop("concurrency", 1)
        wanted = settings.pop("fetch_list", None)
        if "path" not in settings:
            self._note(name, "has neither a class of its own nor a model, so it does nothing; take it out of the graph")
        if wanted:
            self._note(name, f"is a model alone, which gives all its outputs, not only {', '.join(wanted)}")
        if settings.pop("rename", None):
            self._note(name, "is a model alone, whose inputs and outputs have the model's own names")
        return settings | ({"instances": processes} if processes > 1 else {})

    def _make_inputs(self, names: list[str], has_request_op: bool) -> Any:
        if names == [REQUEST_NAME] and not has_request_op:
            return "request"
        if REQUEST_NAME in names and has_request_op:
            return {name: _UNPACK if name == REQUEST_NAME else name for name in names}
        found = ["request" if name == REQUEST_NAME else name for name in names]
        return found[0] if len(found) == 1 else found

    def _read_op(self, name: str, arguments: Mapping[str, Any]) -> Settings:
        is_each = self._source.get(("build_dag_each_worker",), False)
        settings = read_op(self._source, name, arguments, self._source.get(("worker_num",), 1) if is_each else 1)
        if "path" in settings:
            settings["path"] = self._relative(settings["path"], self._source.folder)
        return settings

    def _note_arguments(self, name: str, arguments: Mapping[str, Any]) -> None:
        if arguments.get("jump_to_ops"):
            self._note(
                name, "jumps to other ops, which has no counterpart: have the ops between skip by is_skip_process"
            )
        for argument in ("server_endpoints", "local_service_handler"):
            if arguments.get(argument):
                self._note(name, f"is built with {argument}, which has no counterpart: name its model in path")

    def _note(self, op: str, text: str) -> None:
        self._source.notes.append(Note(self._web_service, None, f"the op {op} {text}"))

    def _relative(self, path: str, folder: str = "") -> str:
        """Return a path that begins at ``folder`` as one that begins where ours will lie; one from / stays as it is."""
        if folder and Path(path).is_absolute():
            return path
        return os.path.relpath(os.path.join(folder, path), self._base or ".")

    # ---- the text

    def _join(self, pipeline: Settings, ops: list[Settings]) -> str:
        made_of = self._source.name + (f" and {self._web_service}" if self._web_service else "")
        lines = [f"# Made of {made_of} by ascend-parallel migrate paddle-serving.", *self._server(), "", "pipelines:"]
        lines += write_mapping(pipeline, "", is_item=True)
        lines.append("  ops:")
        for op in ops:
            lines += write_mapping(op, "  ", is_item=True)
        return "\n".join(lines) + "\n"

    def _server(self) -> list[str]:
        server: Settings = {"host": Commented("0.0.0.0", "as Paddle Serving; 127.0.0.1 keeps other hosts out")}
        http, grpc = self._source.get(("http_port",)), self._source.get(("rpc_port",))
        server["port"] = (
            http if http else Commented(_DEFAULT_PORT, "Paddle Serving had no HTTP; there is always some here")
        )
        if grpc:
            server["grpc_port"] = grpc
        return write_mapping(server, "")


def write_file(migrated: Migrated, path: Path) -> None:
    """Write our configuration; raises DiskError."""
    from ascend_parallel.files import write_whole

    write_whole(path, lambda file: file.write(migrated.text.encode()))
