"""The worker: one process, one device, one engine.

This folder runs under the engine's own interpreter (Python >= 3.7, numpy >= 1.21, standard library) and
imports nothing from outside itself. The master imports :mod:`protocol`, :mod:`memory` and the engines'
class attributes from here, so both sides share one definition of each.
"""
