"""What is counted of an image model: plain numbers, read by metrics."""

from __future__ import annotations

from collections import Counter

from ascend_parallel.serving.error_text import reason_of
from ascend_parallel.serving.model_stats import Histogram

#: Upper ends of the buckets of a picture's time, in seconds.
TIME_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200)


class PictureStats:
    """The figures of one image model since the server was started.

    Attributes:
        pictures: pictures that were drawn.
        failures: pictures that were not, by the reasons of ``model_stats.FAILURES``.
        steps: denoising steps that were computed.
        waiting: pictures that wait for their turn.
        drawing: pictures that are being drawn.
        picture_s: from a picture's arrival to its last pixel.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.failures: Counter[str] = Counter()
        self.steps = 0
        self.waiting = 0
        self.drawing = 0
        self.picture_s = Histogram(TIME_BUCKETS_S)

    def count_picture(self, seconds: float) -> None:
        """Count a picture that was drawn."""
        self.pictures += 1
        self.picture_s.add(seconds)

    def count_failure(self, error: BaseException, pictures: int) -> None:
        """Count pictures that were not."""
        self.failures[reason_of(error)] += pictures
