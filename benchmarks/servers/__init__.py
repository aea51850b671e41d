"""The servers of serving.py: one file each."""
