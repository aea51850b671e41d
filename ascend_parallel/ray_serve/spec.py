"""What the actors of an application are started with."""

from __future__ import annotations

from typing import Any, NamedTuple


class ReplicaSpec(NamedTuple):
    """What a replica is built from.

    Attributes:
        data: the configuration, as its file has it.
        folder: what its files are relative to; "" is the working directory of the replica.
        import_path: where modules are looked for, after the replica's own path.
        version: of this package, where the application was built.
    """

    data: Any
    folder: str
    import_path: list[str]
    version: str


class IngressSpec(NamedTuple):
    """What the ingress keeps to.

    Attributes:
        max_retries: how often a request is sent to another replica after its own was lost.
        timeout_s: how long an infer request may take in all.
        max_body_bytes: a larger body is refused.
        max_pending_bytes: the bodies of all requests may take so much.
    """

    max_retries: int
    timeout_s: float
    max_body_bytes: int
    max_pending_bytes: int


class Call(NamedTuple):
    """A request on its way from the ingress to a replica: what an ASGI app needs of it.

    Attributes:
        method: such as "POST".
        path: decoded, with the prefix of the application.
        raw_path: as it was sent.
        root_path: the prefix.
        query: behind the path.
        headers: name and value, in lower case.
        body: all of it.
    """

    method: str
    path: str
    raw_path: bytes
    root_path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Reply(NamedTuple):
    """The response to a call.

    Attributes:
        status: of HTTP.
        headers: name and value.
        body: all of it.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
