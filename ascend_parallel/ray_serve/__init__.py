"""Models of a configuration of ``ascend-parallel serve``, as an application of Ray Serve.

::

    serve run ascend_parallel.ray_serve:build config=config.yml
"""

from .builder import build

__all__ = ["build"]
