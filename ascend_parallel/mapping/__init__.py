"""A folder of files through a pipeline, over all devices: ``ascend-parallel map`` and :func:`parallel_map`."""
