"""benchmarks/startup.py: each of its commands runs."""

import startup


def test_all_commands_run(tmp_path):
    best = startup.measure(0, tmp_path)
    assert best.keys() == startup.commands().keys()
    assert all(seconds < 60 for seconds in best.values())
    assert len(list((tmp_path / "out").glob("*.json"))) == len(list((tmp_path / "bare").iterdir())) == startup.FILES
