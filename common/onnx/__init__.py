"""ONNX files of the catalogue's networks: written, summarised as a table of layers, and run."""
