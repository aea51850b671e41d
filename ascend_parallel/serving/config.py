"""The configuration of a server: its settings, its models, its pipelines and its image models.

The classes give the names, types, ranges and defaults. ``config_checks.py`` checks what goes beyond them, such as files
and devices. The docstrings of the attributes are the descriptions in the JSON schema.
"""

# ruff: noqa: RUF012 - pydantic copies the defaults

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ascend_parallel.pipelines.config import PipelineConfig

from .image_config import ImageConfig
from .model_config import Count, ModelConfig, Settings, Text

__all__ = ["ServerConfig", "ServerSettings"]

Port = Annotated[int, Field(ge=0, le=65535)]
SharedMemoryPrefix = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        json_schema_extra={"patternErrorMessage": "letters, digits, _, - and dots, such as 'clients_'"},
    ),
]


class ServerSettings(Settings):
    """The settings of a server, without its models."""

    host: Text = "127.0.0.1"
    """The address to listen on. 0.0.0.0 is every address of the machine: other hosts can reach the server."""

    port: Port = 8000
    """The port of HTTP. 0: any free one, which the server prints."""

    grpc_port: Port | None = None
    """The port of gRPC. Default: no gRPC. 0: any free one."""

    token_file: Text | None = None
    """A file with the bearer token that requests must have. Default: none is needed."""

    tls_cert: Text | None = None
    """The certificate for TLS, a PEM file. Needs tls_key. Default: no TLS."""

    tls_key: Text | None = None
    """The private key of tls_cert, a PEM file without a password."""

    max_body_bytes: Count = 64 << 20
    """The largest body of a request, in bytes."""

    max_pending_bytes: Count = 1 << 30
    """How many bytes the bodies of all requests may take that are being received, wait or run. Further requests are
    refused, with status 503."""

    max_connections: Count = 10_000
    """How many connections of HTTP may be open. Further ones are refused, with status 503; sooner where few descriptors
    are left (see ulimit -n)."""

    shared_memory_prefix: SharedMemoryPrefix | None = None
    """Clients of this host may pass tensors in the files of /dev/shm whose names begin with this. Default: they may
    not."""

    access_log: bool = False
    """Whether each request is logged."""

    log_format: Literal["text", "json"] = "text"
    """The format of the log: lines for people, or a JSON object a line."""

    trace: Text | None = None
    """A .json file, written at the end: the times of the latest requests, for ui.perfetto.dev."""

    drain_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    """How long accepted requests may take after SIGTERM, in seconds."""

    allow_control: bool = False
    """Whether clients may load and unload models."""

    def relative_to(self, folder: str) -> ServerSettings:
        """Return the same settings with their files found from ``folder``."""
        files = {name: getattr(self, name) for name in ("token_file", "tls_cert", "tls_key", "trace")}
        return self.model_copy(
            update={name: os.path.join(folder, path) for name, path in files.items() if path is not None}
        )


class ServerConfig(ServerSettings):
    """The configuration of ascend-parallel serve."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [section]} for section in ("models", "pipelines", "images")]}
    )

    models: Annotated[list[ModelConfig], Field(min_length=1)] = []
    """The models that are served."""

    pipelines: Annotated[list[PipelineConfig], Field(min_length=1)] = []
    """The pipelines that are served: graphs of ops."""

    images: Annotated[list[ImageConfig], Field(min_length=1)] = []
    """The models that draw pictures from text."""
