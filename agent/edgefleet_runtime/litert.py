"""LiteRT (ai-edge-litert) and its predecessor tflite-runtime behind the port; both have the same Interpreter.

1. Names: those of the file's signature when it has one, else those of the declared tensors, else the tensor names of the file.
2. An input is resized only where its shape signature says the length is free; outputs are read after the resize.
3. Quantized tensors keep their integer dtype; scale and zero point are in the spec. Nothing is quantized behind the caller.
4. tflite-runtime 2.14 works with numpy < 2 only and gets no new versions; the same code serves both.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgefleet_protocol.manifest import Quantization, TensorSpec
from edgefleet_runtime.port import Array, ModelIO, ModelLoadError, RunError, check_inputs, first_line

_DEFAULT_SIGNATURE = "serving_default"


class LiteModel:
    """A model in a LiteRT or tflite-runtime interpreter."""

    def __init__(
        self,
        model: bytes | memoryview,
        *,
        runtime_name: str,
        version: str,
        threads: int = 1,
        spec: ModelIO | None = None,
    ) -> None:
        """Load the model and allocate its tensors. Raises ModelLoadError."""
        self.name = runtime_name
        self.version = version
        check_root(model, runtime_name, version)
        try:
            self._interpreter = _interpreter(runtime_name, bytes(model), threads)
            self._interpreter.allocate_tensors()
        except Exception as e:  # the interpreter raises ValueError, RuntimeError and SystemError (numpy 2 under 2.14)
            raise ModelLoadError(
                f"{runtime_name} {version} cannot load the model: {first_line(e)}",
                next_step="convert the model again for a profile that names this runtime version",
            ) from e
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        signature_inputs, signature_outputs = _signature_names(self._interpreter)
        self.inputs, self._input_indices = named(inputs, signature_inputs, spec.inputs if spec else None, "inputs")
        self.outputs, self._output_indices = named(
            outputs, signature_outputs, spec.outputs if spec else None, "outputs"
        )
        self._shapes = {d["index"]: tuple(int(n) for n in d["shape"]) for d in inputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs in the model's order. Blocks. Raises InputError, RunError."""
        check_inputs(self.inputs, inputs)
        try:
            self._resize(inputs)
            for spec, index in zip(self.inputs, self._input_indices, strict=True):
                self._interpreter.set_tensor(index, inputs[spec.name])
            self._interpreter.invoke()
            # get_tensor copies: the answer stays valid while the next one is computed
            return {
                spec.name: self._interpreter.get_tensor(index)
                for spec, index in zip(self.outputs, self._output_indices, strict=True)
            }
        except Exception as e:  # the interpreter raises ValueError and RuntimeError alike
            self._shapes = {}  # what is allocated is unknown now: force a resize next time
            raise RunError(
                f"{self.name} {self.version} failed to run the model: {first_line(e)}",
                next_step="test the bundle with its golden vectors",
            ) from e

    def _resize(self, inputs: Mapping[str, Array]) -> None:
        changed = False
        for spec, index in zip(self.inputs, self._input_indices, strict=True):
            shape = inputs[spec.name].shape
            if self._shapes.get(index) != shape:
                self._interpreter.resize_tensor_input(index, list(shape))
                changed = True
                self._shapes[index] = shape
        if changed:
            self._interpreter.allocate_tensors()


def check_root(model: bytes | memoryview, runtime_name: str, version: str) -> None:
    """Raise ModelLoadError unless the file begins as a TFLite flatbuffer whose root table lies inside it.

    tflite-runtime 2.14 follows these offsets unchecked and ends the process on a file of another kind (seen). Offsets further in
    are not checked here: files that nobody vouches for are loaded in a child process.
    """
    size = len(model)
    good = size >= 16 and bytes(model[4:8]) == b"TFL3"
    if good:
        root = int.from_bytes(model[:4], "little")
        good = 8 <= root <= size - 4
        if good:
            vtable = root - int.from_bytes(model[root : root + 4], "little", signed=True)
            good = 0 <= vtable <= size - 4
    if not good:
        raise ModelLoadError(
            f"{runtime_name} {version} cannot load the model: it is not a TFLite file, or is cut off",
            next_step="check the model file; a .tflite file has TFL3 at its fifth byte",
        )


def _interpreter(runtime_name: str, model: bytes, threads: int) -> Any:
    if runtime_name == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter(model_content=model, num_threads=threads)


def _signature_names(interpreter: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Return tensor index -> signature name for inputs and outputs; empty without a usable signature."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        return {}, {}
    key = _DEFAULT_SIGNATURE if _DEFAULT_SIGNATURE in signatures else next(iter(signatures))
    runner = interpreter.get_signature_runner(key)
    inputs = {int(d["index"]): name for name, d in runner.get_input_details().items()}
    outputs = {int(d["index"]): name for name, d in runner.get_output_details().items()}
    # a signature of another subgraph has indices of its own: use it only when it is about the main graph's tensors
    if set(inputs) != {int(d["index"]) for d in interpreter.get_input_details()}:
        return {}, {}
    if set(outputs) != {int(d["index"]) for d in interpreter.get_output_details()}:
        return {}, {}
    return inputs, outputs


def named(
    details: list[dict[str, Any]], signature: dict[int, str], declared: tuple[TensorSpec, ...] | None, kind: str
) -> tuple[tuple[TensorSpec, ...], list[int]]:
    """Return specs and tensor indices, in the declared order when tensors are declared, else in the file's.

    Raises ModelLoadError when the declaration does not describe the file.
    """
    found = [_spec(d, signature.get(int(d["index"]), str(d["name"]))) for d in details]
    indices = [int(d["index"]) for d in details]
    if declared is None:
        return tuple(found), indices
    by_name = {spec.name: position for position, spec in enumerate(found)}
    if len(declared) == len(found) and all(d.name in by_name for d in declared):
        order = [by_name[d.name] for d in declared]
    else:
        order = list(range(len(found)))
    if len(declared) != len(found) or not all(map(_describes, declared, (found[position] for position in order))):
        raise ModelLoadError(
            f"the manifest's {kind} do not describe the model file: it declares {_list(declared)}, the file has {_list(found)}",
            next_step="convert the model again; the bundle is not consistent",
        )
    specs = [
        msgspec.structs.replace(found[position], name=wanted.name, layout=wanted.layout)
        for position, wanted in zip(order, declared, strict=True)
    ]
    return tuple(specs), [indices[position] for position in order]


def _describes(wanted: TensorSpec, actual: TensorSpec) -> bool:
    """Say whether dtype and shape agree; a free length on either side agrees with any."""
    return (
        wanted.dtype == actual.dtype
        and len(wanted.shape) == len(actual.shape)
        and all(
            isinstance(w, str) or isinstance(a, str) or w == a for w, a in zip(wanted.shape, actual.shape, strict=True)
        )
    )


def _list(specs: tuple[TensorSpec, ...] | list[TensorSpec]) -> str:
    return ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in specs)


def _spec(detail: dict[str, Any], name: str) -> TensorSpec:
    signature = detail.get("shape_signature")
    lengths = detail["shape"] if signature is None or len(signature) != len(detail["shape"]) else signature
    shape: list[int | str] = [int(n) if n >= 0 else f"dim{i}" for i, n in enumerate(lengths)]
    dtype = "string" if detail["dtype"] in {np.bytes_, np.object_, np.str_} else np.dtype(detail["dtype"]).name
    scale, zero_point = detail["quantization"]
    quantization = Quantization(scale=float(scale), zero_point=int(zero_point)) if scale else None
    return TensorSpec(name=name, dtype=dtype, shape=shape, quantization=quantization)
