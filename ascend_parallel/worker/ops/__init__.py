"""Ops of pipelines, as they run in a worker: requests packed into one array, and user code around a model."""
