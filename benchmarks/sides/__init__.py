"""What peers.py compares: one file a way to run a model on two cores, all with the same three methods."""
