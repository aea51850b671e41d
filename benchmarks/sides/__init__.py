"""The sides that peers.py compares: one file per way to run a model on two cores, all with the same three methods."""
