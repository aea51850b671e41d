"""The same calls over the devices of many hosts, on Ray: ``ClusterPredictUtils`` and ``RunnerUDF``."""
