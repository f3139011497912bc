"""Sources that are not yet ONNX or TFLite: told apart by content, brought to ONNX in a sandboxed child, compared with the original."""
