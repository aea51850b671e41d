"""The master: owns workers, shared memory and tasks. ``runner.py`` is its face."""
