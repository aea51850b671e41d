"""What the routes of all protocols share: the models, and what clients are allowed to."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from ascend_parallel.batching.batch import Array
from ascend_parallel.errors import AscendParallelError, ShapeError, UnauthorizedError

from .datatypes import BYTES
from .images.image_service import ImageService
from .infer_head import InferHead
from .pending_bytes import PendingBytes
from .repository import Repository
from .served import Served
from .shared_memory import SharedMemory

#: Bytes of a request's body at most, unless the configuration says otherwise.
DEFAULT_MAX_BODY_BYTES = 64 << 20
#: Bytes of the bodies of all requests at most, likewise.
DEFAULT_MAX_PENDING_BYTES = 1 << 30


class ForbiddenError(AscendParallelError):
    """The server was not started with what the client asks for."""

    http_status = 403


class Service:
    """One server, as its protocols see it.

    Attributes:
        repository: the models.
        max_body_bytes: a larger body is refused.
        pending: counts the bytes of all bodies.
        allow_control: whether clients may load and unload models.
        access_log: whether each request is logged.
        images: the image models.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        token: str = "",
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES,
        allow_control: bool = False,
        shared_memory_prefix: str | None = None,
        access_log: bool = False,
        images: ImageService | None = None,
    ) -> None:
        """Take what the configuration says; without a token, everybody is allowed."""
        self.repository = repository
        self.max_body_bytes = max_body_bytes
        self.pending = PendingBytes(max_pending_bytes)
        self.allow_control = allow_control
        self.access_log = access_log
        self._token = token.encode()
        self.images = images or ImageService()
        self._shared_memory = None if shared_memory_prefix is None else SharedMemory(shared_memory_prefix)
        self._ok_lines: tuple[object, bytes] = (None, b"")

    @property
    def extensions(self) -> list[str]:
        """The extensions of the protocol that the server has."""
        names = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
        return names if self._shared_memory is None else [*names, "system_shared_memory"]

    @property
    def has_token(self) -> bool:
        """Whether clients need a token."""
        return bool(self._token)

    @property
    def shared_memory(self) -> SharedMemory:
        """The shared-memory regions; raises ForbiddenError where clients may not have any."""
        if self._shared_memory is None:
            raise ForbiddenError("the shared-memory extension is off; start the server with a shared_memory_prefix")
        return self._shared_memory

    def fill_regions(self, model: Served, head: InferHead, arrays: list[Array | None]) -> list[Array]:
        """Return the inputs of a request, those in shared-memory regions included.

        Regions for outputs are checked as well, so that nothing is computed in vain.

        Raises:
            ShapeError: there is text, and what is served takes none.
            UsageError: a region is not registered, or too small.
            TooLargeError: the inputs in regions are larger than a body may be.
            ForbiddenError: clients may not have regions.
        """
        if head.has_text and not model.takes_text:
            name = next(ref.name for ref in head.inputs if ref.dtype is BYTES)
            raise ShapeError(
                f"input {name!r} has the datatype BYTES, but {model.name!r} is a model, and no engine takes text; a "
                "pipeline whose Python makes numbers of it does"
            )
        if not head.has_regions:
            return arrays  # type: ignore[return-value]
        memory = self.shared_memory
        for ref in head.outputs or ():
            if ref.region is not None:
                memory.find(f"output {ref.name!r}", *ref.region)
        return memory.read_inputs(head.inputs, arrays, self.max_body_bytes, model.empty)

    def fill_output_regions(self, head: InferHead, outputs: Mapping[str, Array]) -> None:
        """Write the outputs that go to shared-memory regions there; raises UsageError."""
        for ref in head.outputs or ():
            if ref.region is not None and ref.name in outputs:
                self.shared_memory.write(ref.name, ref.region, outputs[ref.name])

    def ok_lines(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the status line of success, and the headers that uvicorn makes once a second."""
        made_of, lines = self._ok_lines
        if made_of is not default_headers:
            lines = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in default_headers)
            self._ok_lines = (default_headers, lines)
        return lines

    def check_control(self) -> None:
        """Check that clients may load and unload models; raises ForbiddenError."""
        if not self.allow_control:
            raise ForbiddenError("models are not loaded and unloaded by clients; start the server with allow_control")

    def check_token(self, headers: Mapping[bytes, bytes]) -> None:
        """Check the authorization header in constant time; raises UnauthorizedError."""
        if self._token:
            self.check_authorization(headers.get(b"authorization", b""))

    def check_authorization(self, given: bytes) -> None:
        """Check the value of an authorization header in constant time; raises UnauthorizedError."""
        scheme, _, token = given.partition(b" ")
        is_bearer = scheme.lower() == b"bearer"  # RFC 9110: names of schemes have no case
        if self._token and not (hmac.compare_digest(token.strip(b" "), self._token) and is_bearer):
            raise UnauthorizedError("the request has no valid token; send the header 'Authorization: Bearer TOKEN'")
