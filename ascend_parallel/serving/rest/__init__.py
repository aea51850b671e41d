"""The REST form of the Open Inference Protocol: requests read, answers written."""
