"""Bring a Keras 3 model (.keras) to ONNX.

    python with_tensorflow.py SOURCE.keras OUT.onnx ANSWERS.npz REPORT.json

Run as a file by the Python of the tool environment `tensorflow`, so it imports nothing of edgefleet. The files are as in
`with_torch.py`; the inputs are random. `safe_mode` keeps layers that hold Python code (Lambda) from being loaded.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
CURE = "export it to ONNX or TFLite where it was made (layers with Python code, such as Lambda, are never loaded)"
OPSET = 17
OPEN_SIZE = 32
"""Length given to open dimensions other than the first, for the sample only."""


def main(source: str, out: str, answers: str, report: str) -> None:
    """Convert and write the three files."""
    if sys.platform == "linux":  # prctl PR_SET_PDEATHSIG: a conversion that is stopped leaves no tool running
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    import keras
    import tensorflow as tf
    import tf2onnx

    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "tf2onnx": tf2onnx.__version__}
    result: dict[str, Any] = {"versions": versions}
    step = "read"
    try:
        model = keras.saving.load_model(source, compile=False, safe_mode=True)
        step = "converted"
        signature = [tf.TensorSpec(value.shape, value.dtype, name=value.name) for value in model.inputs]

        def call(*values: Any) -> Any:
            return model(values[0] if len(values) == 1 else list(values), training=False)

        proto, _ = tf2onnx.convert.from_function(
            tf.function(call, input_signature=signature), input_signature=signature, opset=OPSET
        )
        Path(out).write_bytes(proto.SerializeToString(deterministic=True))
        step = "run"
        _write_answers(call, signature, answers)
    except Exception as error:  # noqa: BLE001 - the file decides what Keras raises; the text is shown to the user
        text = " ".join(str(error).split())[:400]
        result = {
            "versions": versions,
            "error": {"message": f"the Keras model cannot be {step}: {type(error).__name__}: {text}", "next": CURE},
        }
    Path(report).write_text(json.dumps(result), encoding="utf-8")


def _write_answers(call: Any, signature: list[Any], path: str) -> None:
    """Write random inputs (open first dimension: 2 samples) and the model's own answers."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    values = []
    for spec in signature:
        dims = [size or (2 if index == 0 else OPEN_SIZE) for index, size in enumerate(spec.shape)]
        is_float = spec.dtype.is_floating
        value = random.standard_normal(dims) if is_float else random.integers(0, 2, dims)
        values.append(tf.constant(value.astype(spec.dtype.as_numpy_dtype)))
        arrays[f"in.{spec.name}"] = values[-1].numpy()
    outputs = tf.nest.flatten(call(*values))
    np.savez(path, **arrays, **{f"out.{index}": value.numpy() for index, value in enumerate(outputs)})


if __name__ == "__main__":
    main(*sys.argv[1:5])
