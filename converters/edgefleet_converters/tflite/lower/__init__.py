"""Lowerings: how each ONNX operator is written with TFLite operators, one small family a file."""
