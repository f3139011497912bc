"""Prepare a simplified model for quantization with samples, once for all candidates: names, shapes, ranges, means.

Runs in a sandboxed child. What costs time here (running the model on every sample) does not depend on which nodes a candidate
quantises, so candidates and the sensitivity search share it.
"""

from pathlib import Path
from typing import Any

import msgspec
import onnx

from edgefleet_converters.data import read_arrays
from edgefleet_converters.errors import TransformError
from edgefleet_converters.onnx.calibrate import BIAS_SAMPLES, Calibration, Samples, channel_means, tensor_ranges
from edgefleet_converters.onnx.load import parse, serialise
from edgefleet_converters.onnx.passes.correct_bias import CORRECTED
from edgefleet_converters.onnx.passes.equalise import Equalise
from edgefleet_converters.onnx.passes.gemm_to_matmul import GemmToMatMul
from edgefleet_converters.onnx.quantize import quantized, with_node_names
from edgefleet_converters.onnx.ranges import cut
from edgefleet_converters.passes.base import PassNote, run_passes
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_protocol.manifest import TensorSpec


def prepare_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, spec, samples: npz, inputs: [TensorSpec], out, calibration: path}.

    Writes the prepared model to `out` and a `Calibration`. Returns `{passes: [{name, outcome, reason}]}`.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    inputs = msgspec.convert(args["inputs"], list[TensorSpec])
    samples = Samples(read_arrays(Path(args["samples"])), inputs)
    model, calibration, notes = prepared(parse(Path(args["model"]).read_bytes()), spec, samples)
    Path(args["out"]).write_bytes(serialise(model))
    calibration.save(Path(args["calibration"]))
    return {"passes": [{"name": n.name, "outcome": n.outcome, "reason": n.reason} for n in notes]}


def prepared(
    model: onnx.ModelProto, spec: CandidateSpec, samples: Samples
) -> tuple[onnx.ModelProto, Calibration, list[PassNote]]:
    """Return the model with names and shapes (and equalised, when `spec` says so), and what the samples tell of it."""
    notes: list[PassNote] = []
    if spec.equalise:
        result = run_passes(model, [Equalise()])
        model, notes = result.model, list(result.notes)
    model = _named(model)
    calibration = _calibrated(model, spec, samples)
    try:
        quantized(model, spec, calibration)
    except TransformError:
        pass  # a candidate that needs what is missing says so itself; others do not need it
    except ValueError:
        # onnxruntime 1.32 compares a per-channel scale with one number for the bias of some Gemm nodes (converters.md §0.5).
        rewritten = run_passes(model, [GemmToMatMul()])
        notes += rewritten.notes
        if rewritten.notes[0].outcome == "applied":
            model = _named(rewritten.model)
            calibration = _calibrated(model, spec, samples)
    return model, calibration, notes


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    return with_node_names(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _calibrated(model: onnx.ModelProto, spec: CandidateSpec, samples: Samples) -> Calibration:
    inputs = sorted({node.input[0] for node in model.graph.node if node.op_type in CORRECTED})
    few = samples.part(range(min(len(samples), BIAS_SAMPLES)))
    means = channel_means(model, inputs, few) if inputs else {}
    return Calibration(cut(model, tensor_ranges(model, samples, method=spec.calibration)), means)
