"""A stand-in for PaddleOCR."""

from paddlex import create_pipeline


class DocPreprocessor:
    def __init__(self, device=None, lang="ch", cpu_threads=10):
        self._pipeline = create_pipeline("doc", device, lang=lang)

    def predict(self, paths):
        return list(self._pipeline.predict(paths))
