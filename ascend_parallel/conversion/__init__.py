"""Conversion of ONNX files to MINDIR files for the batch of each device: ``ascend-parallel convert``."""
