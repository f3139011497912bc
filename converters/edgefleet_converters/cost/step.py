"""The counting as a sandboxed step: it runs the model, so it runs where models run."""

from pathlib import Path
from typing import Any

from edgefleet_converters.cost.onnx_work import onnx_work
from edgefleet_converters.cost.tflite_work import tflite_work
from edgefleet_converters.data import read_arrays
from edgefleet_converters.errors import TransformError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample


def count_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, format: onnx|tflite, samples: npz, inputs: [{name, dtype, shape}]}. Returns `{work}`.

    samples: first axis = samples, of which the first is used. Raises TransformError.
    """
    import msgspec

    data = Path(args["model"]).read_bytes()
    try:
        if args["format"] == "tflite":
            return {"work": tflite_work(data)}
        samples = read_arrays(Path(args["samples"]))
        specs = msgspec.convert(args["inputs"], list[TensorSpec])
        return {"work": onnx_work(data, {spec.name: slice_sample(spec, samples[spec.name], 0) for spec in specs})}
    except ValueError as error:
        raise TransformError(f"the work of the model cannot be counted: {error}", next_step="report this") from error
