"""The thread backend: one thread of this process for each instance of the model; nothing is copied."""
