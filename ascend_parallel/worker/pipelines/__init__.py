"""The worker's side of ``ascend-parallel map``: runs files through a pipeline and saves or packs the results."""
