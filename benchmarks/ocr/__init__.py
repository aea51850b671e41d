"""The OCR example behind ascend_parallel and behind other servers, for ``benchmarks/pipeline.py``."""
