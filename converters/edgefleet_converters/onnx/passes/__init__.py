"""Passes over ONNX graphs, one a file. Order and use: `edgefleet_converters.onnx.simplify`."""
