"""The closed loop on a simulated clock: how many calls are in flight, and which are measured."""

from collections import deque
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from ascend_parallel.bench import MeasurementLimits, figures, load, measure
from ascend_parallel.bench.load import LoadGenerator, Samples

MS = 1_000_000


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the device advances."""
    now = SimpleNamespace(ns=5_000 * MS)
    for module in (load, measure):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter_ns=lambda: now.ns))
    return now


class Device:
    """One device that takes 10 ms per call, one call at a time."""

    def __init__(self, clock, fails_at=None):
        self.clock = clock
        self.calls = 0
        self.waiting = deque()
        self.most_in_flight = 0
        self.fails_at = fails_at

    def predict(self, inputs):
        self.clock.ns += 10 * MS
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("broken")

    def submit(self, inputs):
        future = Future()
        self.waiting.append(future)
        self.most_in_flight = max(self.most_in_flight, len(self.waiting))
        return future

    def work(self):
        """Run the next call when the loop waits for one."""
        self.predict(None)
        self.waiting.popleft().set_result(None)


class CompletedQueue:
    """The queue of completed calls; waiting for it makes the device run a call."""

    def __init__(self, device):
        self.device = device
        self.items = deque()

    def put(self, item):
        self.items.append(item)

    def get(self, timeout):
        self.device.work()
        return self.items.popleft()


@pytest.mark.parametrize("in_flight", [1, 2, 5])
@pytest.mark.parametrize(
    ("limits", "calls"), [(MeasurementLimits(duration_s=2.0), 200), (MeasurementLimits(requests=37), 37)]
)
def test_a_device_of_10_ms_runs_100_calls_per_second(clock, in_flight, limits, calls):
    device = Device(clock)
    generator = LoadGenerator(device, {}, in_flight)
    generator._completed = CompletedQueue(device)
    samples = Samples()
    started_ns = generator.warm_up(2 * in_flight)
    generator.run(samples, started_ns, limits.is_enough)
    assert len(samples) == calls
    assert figures.throughput(len(samples), samples.started_ns, samples.ends_ns[-1]) == 100.0
    assert set(samples.latencies_ns) == {10 * in_flight * MS}, "each call waited for those before it"
    if in_flight > 1:
        assert device.most_in_flight == in_flight
        assert len(device.waiting) == in_flight - 1, "the load is kept until the end"
    generator.drain()
    assert not device.waiting
    assert device.calls == 2 * in_flight + calls + in_flight - 1


def test_without_a_duration_slow_calls_are_measured_longer(clock):
    device = Device(clock)
    generator = LoadGenerator(device, {}, 1)
    for default_s, calls in ((0.5, 50), (0.02, figures.MIN_CALLS)):
        samples = Samples()
        generator.run(samples, clock.ns, MeasurementLimits(usual_duration_s=default_s).is_enough)
        assert len(samples) == calls
    samples = Samples()
    generator.run(samples, clock.ns, MeasurementLimits(duration_s=0.02).is_enough)
    assert len(samples) == 2, "the user's duration is kept"


def test_the_error_of_a_call_ends_the_loop_and_keeps_the_samples(clock):
    samples = Samples()
    with pytest.raises(RuntimeError, match="broken"):
        LoadGenerator(Device(clock, fails_at=8), {}, 1).run(samples, clock.ns, MeasurementLimits(requests=20).is_enough)
    assert len(samples) == 7
