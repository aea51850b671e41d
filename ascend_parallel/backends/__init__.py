"""Backends: who runs the tasks of a call, behind one interface."""
