"""ONNX files: how a network is written as one, read as a table of layers, and run."""
