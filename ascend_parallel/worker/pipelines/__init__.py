"""Files through a pipeline: what a worker does for `ascend-parallel map`."""
