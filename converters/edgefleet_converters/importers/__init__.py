"""Sources that are not yet ONNX or TFLite: recognised by content, brought to ONNX in a sandboxed child, compared with the original."""
