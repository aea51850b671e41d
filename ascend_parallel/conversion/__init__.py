"""ONNX files made into MINDIR files, of the batch that each device gets: ``ascend-parallel convert``."""
