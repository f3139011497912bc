"""ONNX sources: import, graph passes, quantization."""
