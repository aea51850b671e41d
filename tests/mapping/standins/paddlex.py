"""A stand-in for PaddleX: its interface, and faults observed with the real library (which has its own tests)."""


class Result(dict):
    def __reduce__(self):
        raise TypeError("results of PaddleX do not pickle")

    @property
    def json(self):
        return {"res": dict(self)}

    def save_to_json(self, path):
        with open(path, "w") as file:
            file.write(repr(dict(self)))


class Pipeline:
    def __init__(self, name, device, options):
        self.name, self.device, self.options = name, device, options

    def predict(self, paths):
        for path in paths:
            if not isinstance(path, str) or "gone" in path:
                continue  # without an error
            if "bad" in path:
                raise RuntimeError("a bad image takes its batch with it")
            yield Result(input_path=path, page_index=None, device=self.device, pipeline=self.name, options=self.options)


def create_pipeline(pipeline, device=None, **options):
    if device.startswith("cpu:"):
        raise ValueError("No Device ID should be specified for CPUs")
    return Pipeline(pipeline, device, options)
