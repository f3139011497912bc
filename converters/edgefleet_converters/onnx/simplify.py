"""Simplify an imported model without changing an answer.

Order: strip stored inputs -> upgrade the opset -> fix shapes -> inline constant `If` -> fold -> hoist constants. After each of
them the model is run next to the source on a few samples; a result that differs by more than `EXACT_RATIO` of an output's range
is thrown away and the model before it is used. Runs in a sandboxed child.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from edgefleet_converters.check.parity import spread_of
from edgefleet_converters.graph_passes import Pass, PassNote, run_passes
from edgefleet_converters.onnx.load import facts_of, parse, serialise
from edgefleet_converters.onnx.passes.fix_shapes import FixShapes
from edgefleet_converters.onnx.passes.fold import FoldConstants, canonical
from edgefleet_converters.onnx.passes.hoist_constants import HoistConstants
from edgefleet_converters.onnx.passes.inline_if import InlineConstantIf
from edgefleet_converters.onnx.passes.strip_inputs import StripStoredInputs
from edgefleet_converters.onnx.passes.upgrade_opset import UpgradeOpset
from edgefleet_converters.sample_data import read_arrays
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import ModelRuntime, load

Array = npt.NDArray[Any]

EXACT_RATIO: Final = 1e-5
"""Largest difference, as a share of the output's range, that still counts as the same answer."""


def simplify_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {model, samples: npz of at least one sample, shapes, upgrade, fold, out}.

    Writes `out`; returns `{facts, passes: [{name, outcome, reason}]}`.
    """
    source = parse(Path(args["model"]).read_bytes())
    samples = read_arrays(Path(args["samples"]))
    stripped = run_passes(source, [StripStoredInputs()])
    model, notes = stripped.model, list(stripped.notes)
    wanted = _answers(serialise(model), samples)
    optional: list[Pass[onnx.ModelProto]] = [UpgradeOpset()] if args["upgrade"] else []
    optional += [FixShapes(args["shapes"])] if args["shapes"] else []
    optional += [InlineConstantIf(), FoldConstants(), HoistConstants()] if args["fold"] else []
    for step in optional:
        model, note = _tried(model, step, samples, wanted)
        notes.append(note)
    model = canonical(model, like=model)
    data = serialise(model)
    Path(args["out"]).write_bytes(data)
    return {
        "facts": facts_of(model),
        "passes": [{"name": n.name, "outcome": n.outcome, "reason": n.reason} for n in notes],
    }


def _tried(
    model: onnx.ModelProto, step: Pass[onnx.ModelProto], samples: dict[str, Array], wanted: list[dict[str, Array]]
) -> tuple[onnx.ModelProto, PassNote]:
    """Run one pass and keep its result only when the answers are the same."""
    result = run_passes(model, [step])
    note = result.notes[0]
    if note.outcome != "applied":
        return model, note
    try:
        got = _answers(serialise(result.model), samples)
    except Exception as error:  # noqa: BLE001 - whatever the runtime says, the pass is not used
        return model, PassNote(step.name, "dropped", f"the result does not run: {' '.join(str(error).split())[:200]}")
    worst = largest_relative_difference(wanted, got)
    if worst > EXACT_RATIO:
        return model, PassNote(step.name, "dropped", f"the result differs by {worst:.2g} of the output's range")
    return result.model, note


def _answers(model: bytes, samples: dict[str, Array]) -> list[dict[str, Array]]:
    runtime: ModelRuntime = load("ort", model, threads=1, optimise=False)
    count = len(next(iter(samples.values())))
    return [
        runtime.run({spec.name: slice_sample(spec, samples[spec.name], i) for spec in runtime.inputs})
        for i in range(count)
    ]


def largest_relative_difference(wanted: list[dict[str, Array]], got: list[dict[str, Array]]) -> float:
    """Return max |a - b| ÷ range of a (`spread_of`) over all outputs; infinity when shapes or non-finite places differ."""
    worst = 0.0
    for one, other in zip(wanted, got, strict=True):
        for a, b in zip(one.values(), other.values(), strict=True):
            if a.shape != b.shape:
                return float("inf")
            if a.dtype.kind not in "iufb":
                worst = worst if bool((a == b).all()) else float("inf")
                continue
            x, y = a.astype(np.float64), b.astype(np.float64)
            finite = np.isfinite(x)
            if not np.array_equal(finite, np.isfinite(y)):
                return float("inf")
            if finite.any():
                worst = max(worst, float(np.abs(x[finite] - y[finite]).max()) / spread_of(x[finite]))
    return worst
