"""All servers, by the name that --servers takes, in the order of the tables."""

from __future__ import annotations

from .bare import Bare, Echo
from .granian_app import Granian
from .litserve import LitServe
from .mosec import Mosec
from .ours import Ours
from .paddle_serving import PaddleServing
from .ray_serve import RayServe
from .server import Server
from .triton import Triton
from .uvicorn_app import Uvicorn

OURS = "ours"
SERVERS: dict[str, type[Server]] = {
    OURS: Ours,
    "mosec": Mosec,
    "triton": Triton,
    "uvicorn": Uvicorn,
    "ray": RayServe,
    "litserve": LitServe,
    "paddle": PaddleServing,
    "bare": Bare,
    "echo": Echo,
    "granian": Granian,
}
#: Not peers but bounds: they leave out what a server for users needs.
BOUNDS = ("bare", "echo", "granian")
