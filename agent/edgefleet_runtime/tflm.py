"""TFLite Micro behind the port: the interpreter of the `tflite-micro` wheel, on a host; no microcontroller runs Python.

1. It proves a model for a board whose firmware has TFLite Micro built in (ADR 0018).
2. Its API names no tensors, so names, types and quantization are read from the file with the wheel's own schema, by the same
   rules as for LiteRT.
3. The arena is the memory that the interpreter works in; firmware reserves it when it is built, so its size is what counts.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from edgefleet_runtime.litert import check_root, named
from edgefleet_runtime.port import Array, ModelIO, ModelLoadError, RunError, check_inputs, first_line

MAX_ARENA: Final = 256 * 1024 * 1024

# TensorType of the TFLite schema -> numpy
_DTYPES: Final = {0: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8}


class MicroModel:
    """A model in TFLite Micro's interpreter."""

    name = "tflm"

    def __init__(self, model: bytes | memoryview, *, version: str, spec: ModelIO | None = None) -> None:
        """Load the model. Raises ModelLoadError."""
        self.version = version
        check_root(model, "tflm", version)
        self._model = bytes(model)
        try:
            inputs, outputs, names = _edges(self._model)
            self._interpreter = _in_growing_arena(self._model)
        except ModelLoadError:
            raise
        except Exception as e:  # the wheel raises RuntimeError, its schema reader struct.error and more
            raise ModelLoadError(
                f"tflm {version} cannot load the model: {first_line(e)}",
                next_step="use operators and types that TFLite Micro has; `edgectl profile show` lists the operators",
            ) from e
        self.inputs, self._inputs = named(inputs, names[0], spec.inputs if spec else None, "inputs")
        self.outputs, self._outputs = named(outputs, names[1], spec.outputs if spec else None, "outputs")
        self._input_order = [int(d["index"]) for d in inputs]
        self._output_order = [int(d["index"]) for d in outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs in the model's order. Blocks. Raises InputError, RunError."""
        check_inputs(self.inputs, inputs)
        try:
            for spec, index in zip(self.inputs, self._inputs, strict=True):
                self._interpreter.set_input(np.ascontiguousarray(inputs[spec.name]), self._input_order.index(index))
            self._interpreter.invoke()
            return {
                spec.name: np.array(self._interpreter.get_output(self._output_order.index(index)))
                for spec, index in zip(self.outputs, self._outputs, strict=True)
            }
        except Exception as e:  # the wheel raises RuntimeError and ValueError alike
            raise RunError(
                f"tflm {self.version} failed to run the model: {first_line(e)}",
                next_step="test the bundle with its golden vectors",
            ) from e


def runs_in(model: bytes, arena_bytes: int) -> bool:
    """Say whether the model loads in an arena of this size and runs once, on zeros. Blocks. Raises ModelLoadError.

    A small arena may end the process (seen with a few hundred bytes), so it is called in a child.
    """
    inputs, _, _ = _edges(model)
    try:
        interpreter = _interpreter(model, arena_bytes)
        for position, detail in enumerate(inputs):
            interpreter.set_input(np.zeros(detail["shape"], detail["dtype"]), position)
        interpreter.invoke()
    except RuntimeError:
        return False
    return True


def _in_growing_arena(model: bytes) -> Any:
    """Return an interpreter; its arena grows until the model loads, so that small models stay small."""
    arena_bytes = 1 << 20
    while True:
        try:
            return _interpreter(model, arena_bytes)
        except RuntimeError:
            arena_bytes *= 4
            if arena_bytes > MAX_ARENA:
                raise


def _interpreter(model: bytes, arena_bytes: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)


def _edges(
    model: bytes,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[dict[int, str], dict[int, str]]]:
    """Return details of inputs and outputs as LiteRT's interpreter gives them, and tensor index -> name of the signature."""
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    graph = tree.subgraphs[0]
    details = [[_detail(graph.tensors[index], int(index)) for index in side] for side in (graph.inputs, graph.outputs)]
    names: list[dict[int, str]] = [{}, {}]
    signature = next((one for one in tree.signatureDefs or [] if not one.subgraphIndex), None)
    if signature is not None:
        for side, maps in enumerate((signature.inputs, signature.outputs)):
            found = {int(one.tensorIndex): one.name.decode() for one in maps or []}
            names[side] = found if set(found) == {detail["index"] for detail in details[side]} else {}
    if not (names[0] and names[1]):
        names = [{}, {}]
    return details[0], details[1], (names[0], names[1])


def _detail(tensor: Any, index: int) -> dict[str, Any]:
    if tensor.type not in _DTYPES:
        raise ModelLoadError(
            f"TFLite Micro is not served with tensors of type {tensor.type} at the edge of the model",
            next_step="export the model with int8 or float32 inputs and outputs",
        )
    shape = [int(size) for size in (tensor.shape if tensor.shape is not None else [])]
    quantization = tensor.quantization
    scales = quantization.scale if quantization is not None and quantization.scale is not None else []
    points = quantization.zeroPoint if quantization is not None and quantization.zeroPoint is not None else []
    return {
        "index": index, "name": (tensor.name or b"").decode("utf-8", "replace"), "shape": shape, "dtype": _DTYPES[tensor.type],
        "shape_signature": tensor.shapeSignature, "quantization": (scales[0] if len(scales) else 0.0, points[0] if len(points) else 0),
    }  # fmt: skip
