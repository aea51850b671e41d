"""``ParallelPredictUtils``: what a user calls, its options, the interface of MindSpore Lite's tutorial, and tracing."""
