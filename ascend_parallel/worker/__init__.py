"""The worker: one process, one device, one engine.

This folder runs under the engine's own interpreter (Python >= 3.7, numpy >= 1.21, standard library) and imports
nothing from outside itself; of the package around it, a worker loads only ``__init__``. Those above import
:mod:`protocol`, :mod:`memory`, :mod:`pipelines.payload`, :mod:`ops.packing` and the engines' class attributes from
here, so both sides share one definition of each.
"""
