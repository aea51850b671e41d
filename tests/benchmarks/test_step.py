"""benchmarks/step.py: its sides make the same call, and none of its processes is left."""

import step


def test_all_sides_make_steps(leaves_nothing):
    with step.open_sides(0.001) as sides:
        for make_step in sides.values():
            assert min(step.losses_us(make_step, 3, 0.001)) > 0
