"""Run a pipeline over many files on all devices: ``ascend-parallel map`` and :func:`parallel_map`."""
