"""onnxruntime behind the port.

1. No spinning threads: a device has other work than waiting (measured on small models: idle CPU instead of one busy core).
2. Models come from bytes, so nothing else is read; external data and custom-op libraries are therefore impossible.
3. The log is quiet below errors; errors reach the caller as exceptions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array, InputError, ModelLoadError, RunError, check_inputs, first_line

_LOG_FATAL = 4

# ORT's element types (onnxruntime/core/framework/data_types.cc) -> numpy names
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
}


class OrtModel:
    """A model in an onnxruntime session on the CPU."""

    def __init__(self, model: bytes | memoryview, *, version: str, threads: int = 1, optimise: bool = True) -> None:
        """Load the model. Raises ModelLoadError."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = _LOG_FATAL
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        try:
            session = ort.InferenceSession(bytes(model), options, providers=["CPUExecutionProvider"])
        except Exception as e:
            raise ModelLoadError(
                f"onnxruntime {version} cannot load the model: {first_line(e)}",
                next_step="convert the model again for a profile that names this onnxruntime version",
            ) from e
        self._session = session
        self.name = "ort"
        self.version = version
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _LOG_FATAL

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs in the model's order. Blocks. Raises InputError, RunError."""
        check_inputs(self.inputs, inputs)
        try:
            values = self._session.run(self._output_names, dict(inputs), self._run_options)
        except Exception as e:
            raise _run_error(e) from e
        return dict(zip(self._output_names, map(np.asarray, values), strict=True))


def _spec(node: Any) -> TensorSpec:
    """Return the spec of a session's NodeArg. Raises ModelLoadError for sequences, maps and unknown element types."""
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ModelLoadError(
            f"tensor {node.name} has the type {node.type}, which edgefleet does not serve",
            next_step="export the model with plain tensor outputs (scikit-learn: the option zipmap=False)",
        )
    shape = [d if isinstance(d, int) and d >= 0 else str(d or "?") for d in node.shape]
    return TensorSpec(name=node.name, dtype=dtype, shape=shape)


def _run_error(error: Exception) -> RunError | InputError:
    text = first_line(error)
    if "INVALID_ARGUMENT" in text and "Got invalid dimensions" in text:
        return InputError(f"onnxruntime refused the inputs: {text}", next_step="send the values in the declared shape")
    return RunError(f"onnxruntime failed to run the model: {text}", next_step="test the bundle with its golden vectors")
