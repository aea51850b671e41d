"""Ops whose numbers decide what they do: run, skip, make mini-batches, refuse or fail. A test does the same itself."""

import zlib

import numpy as np

from ascend_parallel import ProductError, Skip

WIDTH = 4
#: Of so many inputs, one each is treated in a special way.
CHOICES = 48


def numbers_of(inputs):
    """Return what is in the inputs as rows of small whole numbers, in float32."""
    arrays = [value for _, value in sorted(inputs.items()) if isinstance(value, np.ndarray) and value.size]
    flat = np.concatenate([np.ravel(array).astype(np.float64) for array in arrays] or [np.zeros(1)])
    flat = np.append(flat, [len(value) for _, value in sorted(inputs.items()) if isinstance(value, str)])
    return np.resize(np.remainder(flat, 7), (1 + flat.size % 5, WIDTH)).astype(np.float32)


class Base:
    """What all of them have."""

    def __init__(self, device=None, name=""):
        self.name = name

    def choose(self, x):
        """Return a number that looks random; raise for some."""
        chosen = zlib.crc32(self.name.encode() + x.tobytes())
        if chosen % CHOICES == 0:
            raise ProductError(f"{self.name} refuses {chosen}", code=60 + chosen % 30)
        if chosen % CHOICES == 1:
            raise ValueError(f"{self.name} fails with {chosen}")
        return chosen

    def answer(self, y, chosen, **more):
        """Return outputs of all kinds, with names that no other op has."""
        q = np.resize(np.remainder(y, 7) if y.size else np.ones(1), (1 + chosen % 2, WIDTH)).astype(np.float32)
        more |= {"chosen": chosen, "half": y[:1] / 2, "none": None}
        return {f"{self.name}_y": y, f"{self.name}_q": q, f"{self.name}_more": [more, "é" * (chosen % 3)]}


class Alone(Base):
    """Python alone."""

    def predict(self, inputs):
        x = numbers_of(inputs)
        chosen = self.choose(x)
        if chosen % CHOICES == 2:
            return None
        return self.answer(x[:: 1 + chosen % 2] * 3, chosen)


class Around(Base):
    """Python around a model with the input x."""

    def preprocess(self, inputs):
        x = numbers_of(inputs)
        chosen = self.chosen = self.choose(x)
        self.rows = len(x)
        inputs["widths"] = None
        way = chosen % CHOICES
        if way == 2:
            return [{"x": x}, (x,)]
        if way == 3:
            return [{"x": x}, {"x": x[0]}]
        if way < 12:
            return Skip({"why": [chosen, x]})
        if way < 15:
            return []
        if way < 30:
            return [Skip(number) if (chosen >> number) % 4 == 0 else feed for number, feed in self.split(inputs, x)]
        return {"x": x}

    def split(self, inputs, x):
        """Yield mini-batches, of different widths where the model takes any."""
        inputs["widths"] = self.widths(len(x))
        for number, width in enumerate(inputs["widths"]):
            yield number, {"x": np.ascontiguousarray(x[number : number + 1 + self.chosen % 3, :width])}

    def widths(self, count):
        return [1 + (self.chosen >> number) % WIDTH for number in range(count)]

    def postprocess(self, outputs, inputs):
        given = outputs if isinstance(outputs, list) else [outputs]
        widths = inputs.pop("widths") or [None] * len(given)
        parts = []
        for output, width in zip(given, widths, strict=True):
            if isinstance(output, int):
                parts.append(np.array([-output], np.float32))
            elif "why" in output:
                parts.append(output["why"][1].ravel() + np.float32(output["why"][0] % 100))
            else:
                parts += [array[:, :width].ravel().astype(np.float32) for array in output.values()]
        y = np.concatenate([np.zeros(1, np.float32), *parts])
        return self.answer(y, self.chosen, sizes=[part.size for part in parts], rows=self.rows)


class AroundNonzero(Around):
    """The same around a model of one width whose outputs are no rows: the places of what is not zero.

    There are always more of them than rows, as a model runner tells by their number that they are none.
    """

    def widths(self, count):
        return [WIDTH] * count

    def preprocess(self, inputs):
        feeds = super().preprocess(inputs)
        for feed in feeds if isinstance(feeds, list) else [feeds]:
            if isinstance(feed, dict):
                feed["x"] = feed["x"] + np.float32([1, 1, 0, 0])
        return feeds
