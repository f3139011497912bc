"""The counting as a sandboxed step: it runs the model, so it runs where models run."""

import resource
from pathlib import Path
from typing import Any, Final

from edgefleet_converters.cost.onnx_work import onnx_work
from edgefleet_converters.cost.tflite_work import tflite_work
from edgefleet_converters.errors import TransformError
from edgefleet_converters.sample_data import read_arrays
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample

MAX_ACCOUNT_BYTES: Final = 64 * 1024 * 1024
"""Of the runtime's account of one run: about 70,000 operators."""


def count_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, format: onnx|ort|tflite, samples: npz, inputs: [{name, dtype, shape}]}. Returns `{work}`.

    model: for ort the ONNX file that it was made of. samples: first axis = samples, of which the first is used. Raises
    TransformError.
    """
    import msgspec

    # A loop of a million rounds would be written in gigabytes; what is cut off is no JSON, and the model goes without counts.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    bound = MAX_ACCOUNT_BYTES if hard == resource.RLIM_INFINITY else min(MAX_ACCOUNT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bound, hard))
    data = Path(args["model"]).read_bytes()
    try:
        if args["format"] == "tflite":
            return {"work": tflite_work(data)}
        samples = read_arrays(Path(args["samples"]))
        specs = msgspec.convert(args["inputs"], list[TensorSpec])
        return {"work": onnx_work(data, {spec.name: slice_sample(spec, samples[spec.name], 0) for spec in specs})}
    except ValueError as error:
        raise TransformError(f"the work of the model cannot be counted: {error}", next_step="report this") from error
