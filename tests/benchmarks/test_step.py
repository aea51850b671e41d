"""benchmarks/step.py: its sides run the same call, and none of its processes is left."""

import step


def test_all_sides_run_steps(leaves_nothing):
    with step.open_sides(0.001) as sides:
        for run_step in sides.values():
            assert min(step.overheads_us(run_step, 3, 0.001)) > 0
