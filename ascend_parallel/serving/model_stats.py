"""What is counted of one version of a model: plain numbers, added to for each request, read by metrics and page."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from .error_text import reason_of
from .request import InferRequest

#: Upper ends of the buckets of times, in seconds: from 50 us to 60 s, about 1.25 apart.
TIME_BUCKETS_S = tuple(round(5e-5 * 1.25**i, 9) for i in range(64))
#: Upper ends of the buckets of rows of a batch.
ROW_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
#: Why requests fail.
FAILURES = ("error", "timeout", "rejected", "canceled", "invalid")


class Histogram:
    """Counts by bucket.

    Attributes:
        bounds: upper ends of the buckets, ascending; one more bucket holds what is above.
        counts: of each bucket.
        total: the sum of all values.
        count: how many there were.
    """

    __slots__ = ("bounds", "count", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.count += 1


class ModelStats:
    """The figures of one version of a model since it was loaded; durations are in seconds.

    Attributes:
        name: of the model.
        version: of the model.
        successes: requests answered with outputs.
        failures: requests that failed, by reason, one of :data:`FAILURES`.
        rows: rows of the requests that were answered with outputs.
        batches: batches computed.
        request_s: from a request's arrival to its answer.
        queue_s: from a request's arrival until its batch was sent.
        compute_s: what the engine took for a batch.
        batch_rows: rows of a batch.
    """

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.successes = 0
        self.failures: Counter[str] = Counter()
        self.rows = 0
        self.batches = 0
        self.request_s = Histogram(TIME_BUCKETS_S)
        self.queue_s = Histogram(TIME_BUCKETS_S)
        self.compute_s = Histogram(TIME_BUCKETS_S)
        self.batch_rows = Histogram(ROW_BUCKETS)

    def count_answered(self, request: InferRequest) -> None:
        """Count a request for which there are outputs; as a failure, if they could not be delivered."""
        if request.error is not None:
            self.count_failure(reason_of(request.error))
            return
        self.successes += 1
        self.rows += request.rows
        self.request_s.add(request.done_s - request.arrived_s)
        self.queue_s.add(request.sent_s - request.arrived_s)

    def count_failure(self, reason: str) -> None:
        """Count a request that was not."""
        self.failures[reason] += 1

    def count_batch(self, rows: int, compute_ns: int) -> None:
        """Count a batch that was computed."""
        self.batches += 1
        self.batch_rows.add(rows)
        self.compute_s.add(compute_ns / 1e9)
