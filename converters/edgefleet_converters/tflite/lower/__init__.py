"""Lowerings: how each ONNX operator is said with TFLite operators, one small family a file."""
