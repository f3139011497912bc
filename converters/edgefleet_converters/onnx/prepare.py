"""Prepare a simplified model for quantization with samples, once for all candidates: names, shapes, ranges, means.

Runs in a sandboxed child. What costs time here (running the model on every sample) does not depend on which nodes a candidate
quantises, so candidates and the sensitivity search share it.
"""

from pathlib import Path
from typing import Any

import msgspec
import onnx

from edgefleet_converters.errors import TransformError
from edgefleet_converters.graph_passes import PassNote, run_passes
from edgefleet_converters.onnx.calibrate import BIAS_SAMPLES, Calibration, Samples, channel_means, tensor_ranges
from edgefleet_converters.onnx.load import parse, serialise
from edgefleet_converters.onnx.passes.correct_bias import CORRECTED
from edgefleet_converters.onnx.passes.equalise import Equalise, evened
from edgefleet_converters.onnx.passes.gemm_to_matmul import GemmToMatMul
from edgefleet_converters.onnx.quantize import quantized, with_node_names
from edgefleet_converters.onnx.ranges import cut
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.sample_data import read_arrays
from edgefleet_protocol.manifest import TensorSpec


def prepare_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, spec, samples: npz, inputs: [TensorSpec], plain: path or None, out, calibration: path}.

    plain: the `Calibration` of the same model without equalisation. Writes the prepared model to `out` and a `Calibration`.
    Returns `{passes: [{name, outcome, reason}]}`.
    """
    spec = msgspec.convert(args["spec"], CandidateSpec)
    inputs = msgspec.convert(args["inputs"], list[TensorSpec])
    samples = Samples(read_arrays(Path(args["samples"])), inputs)
    plain = Calibration.load(Path(args["plain"])) if args["plain"] else None
    model, calibration, notes = prepared(parse(Path(args["model"]).read_bytes()), spec, samples, plain)
    Path(args["out"]).write_bytes(serialise(model))
    calibration.save(Path(args["calibration"]))
    return {"passes": [{"name": n.name, "outcome": n.outcome, "reason": n.reason} for n in notes]}


def prepared(
    model: onnx.ModelProto, spec: CandidateSpec, samples: Samples, plain: Calibration | None = None
) -> tuple[onnx.ModelProto, Calibration, list[PassNote]]:
    """Return the model with names and shapes (and equalised, when `spec` says so), and what the samples tell of it.

    plain: what they showed of the same model without equalisation, which holds for every tensor that this does not change.
    """
    notes: list[PassNote] = []
    known = plain or Calibration({}, {})
    if spec.equalise:
        result = run_passes(model, [Equalise()])
        known = known.without(evened(model, result.model))
        model, notes = result.model, list(result.notes)
    model = _named(model)
    calibration = _calibrated(model, spec, samples, known)
    if not any(node.op_type == "Gemm" for node in model.graph.node):
        return model, calibration, notes
    try:
        quantized(model, spec, calibration)
    except TransformError:
        pass  # a candidate that needs what is missing says so itself; others do not need it
    except ValueError:
        # onnxruntime 1.32 compares a per-channel scale with one number for the bias of some Gemm nodes (magika has one).
        rewritten = run_passes(model, [GemmToMatMul()])
        notes += rewritten.notes
        if rewritten.notes[0].outcome == "applied":
            model = _named(rewritten.model)
            calibration = _calibrated(model, spec, samples, calibration)
    return model, calibration, notes


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    return with_node_names(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _calibrated(model: onnx.ModelProto, spec: CandidateSpec, samples: Samples, known: Calibration) -> Calibration:
    """Return what the samples tell. known: of tensors that need not be looked at again."""
    inputs = {node.input[0] for node in model.graph.node if node.op_type in CORRECTED}
    means = {name: known.means[name] for name in sorted(inputs) if name in known.means}
    few = samples.part(range(min(len(samples), BIAS_SAMPLES)))
    missing = sorted(inputs.difference(means))
    means |= channel_means(model, missing, few) if missing else {}
    ranges = tensor_ranges(model, samples, method=spec.calibration, known=known.ranges)
    return Calibration(cut(model, ranges), means)
