"""The arithmetic of the figures, with given times."""

import numpy as np
import pytest

from ascend_parallel.bench import figures
from ascend_parallel.bench.measure import numbers_of_devices
from ascend_parallel.bench.report import Row, Setting
from ascend_parallel.bench.sweep import find_best

MS = 1_000_000


def test_a_call_every_10_ms_is_100_per_second_without_spread():
    started_ns = 7_000 * MS
    ends_ns = [started_ns + 10 * MS * (i + 1) for i in range(200)]
    assert figures.throughput(len(ends_ns), started_ns, ends_ns[-1]) == 100.0
    assert figures.spread(started_ns, ends_ns) == 0.0


def test_the_spread_is_half_the_difference_between_the_longest_and_the_shortest_round():
    # Five rounds of two calls: four of 20 ms and one of 60 ms; the mean is 28 ms.
    steps_ms = [10] * 8 + [30] * 2
    ends_ns = [MS * sum(steps_ms[: i + 1]) for i in range(10)]
    assert figures.spread(0, ends_ns) == pytest.approx((60 - 20) / 2 / 28)


def test_the_spread_of_calls_that_end_together_is_limited():
    assert figures.spread(0, [10 * MS] * 10) == pytest.approx(2.5)


def test_rounds_of_unequal_numbers_use_all_calls():
    assert figures.spread(0, [MS * (i + 1) for i in range(13)]) == 0.0


@pytest.mark.parametrize("count", [1, 2, 10, 999])
def test_percentiles_are_numpy_s(count):
    latencies_ns = np.random.default_rng(count).integers(1, 10**9, count)
    percentiles = figures.percentiles_ms(latencies_ns.tolist(), [50, 90, 99, 99.9, 100])
    assert list(percentiles) == [50, 90, 99, 99.9, 100]
    np.testing.assert_allclose(
        list(percentiles.values()), np.percentile(latencies_ns / 1e6, list(percentiles)), rtol=1e-12
    )
    assert percentiles[100] == latencies_ns.max() / 1e6


def test_efficiency_is_relative_to_n_times_one_device():
    assert figures.efficiency(190.0, 2, 100.0) == 0.95
    assert figures.efficiency(100.0, 1, 100.0) == 1.0


def test_distributed_parts_add_up_to_the_total():
    assert figures.distribute(120.0, {"cpu:0": 30, "cpu:1": 10}) == {"cpu:0": 90.0, "cpu:1": 30.0}
    assert figures.distribute(120.0, {"cpu:0": 0}) == {"cpu:0": 0.0}


@pytest.mark.parametrize(("percentile", "calls"), [(50, 2), (90, 10), (99, 100), (99.9, 1000), (100, 1)])
def test_a_percentile_needs_calls_above_it(percentile, calls):
    assert figures.calls_needed(percentile) == calls


@pytest.mark.parametrize(
    ("count", "numbers"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_numbers_of_devices_are_doubled_up_to_all(count, numbers):
    assert numbers_of_devices(count) == numbers


def test_of_settings_with_equal_throughput_the_one_with_the_lowest_latency_is_best():
    def row(rows_per_s, latency_ms):
        return Row(Setting(2, 4, 1, 1), 100, 1.0, rows_per_s, rows_per_s / 4, 0.01, {50.0: latency_ms})

    slow, quick, less, little = row(200, 80.0), row(198, 20.0), row(150, 1.0), row(90, 1.0)
    assert find_best([little, slow, less, quick]) == [quick, slow, less]
