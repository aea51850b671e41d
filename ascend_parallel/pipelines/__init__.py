"""Pipelines: graphs of ops, each a model, Python, or Python around a model; in a server, or without one."""
