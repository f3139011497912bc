"""Measure the importance of inputs in a sandboxed child: the model is loaded once and run until all is measured or time is over.

Repeats go round all units before the next one begins, so that a measurement that is cut short has fewer repeats of each unit rather
than nothing of the last ones.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.run_model import loaded
from edgefleet_converters.importance.importance_report import FeatureRow, OcclusionRow
from edgefleet_converters.importance.model_runs import AskedModel, TimeOverError
from edgefleet_converters.importance.occlusion import Grid, hidden, occlusion_row, right_scores
from edgefleet_converters.importance.permutation import (
    TOP1,
    Unit,
    effect_of,
    losses_of,
    metric_of,
    order_of,
    shuffled,
)
from edgefleet_converters.importance.table_shap import shap_document
from edgefleet_converters.sample_data import read_arrays
from edgefleet_protocol.errors import EdgefleetError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SHAP_S: Final = 120.0


@dataclass
class _Found:
    """What was measured so far."""

    repeats: dict[int, list[Floats]] = field(default_factory=dict)
    drops: dict[tuple[str, int, int], Floats] = field(default_factory=dict)


def importance_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {runtime, model, threads, samples: npz, truth: npz with `y`, output: position, metric, units, grids,
    is_shown, repeats, seed, seconds, shap: bool, tools: folder of tool environments or ""}.

    Returns `{base, features, occlusion, not_measured, cut, seconds}` as in `ImportanceRow`. Raises LoadFailedError, RunError.
    """
    started_s = time.monotonic()
    runtime = loaded(args["runtime"], Path(args["model"]).read_bytes(), threads=int(args["threads"]))
    arrays = read_arrays(Path(args["samples"]))
    truth = read_arrays(Path(args["truth"]))["y"]
    model = AskedModel(runtime, runtime.outputs[int(args["output"])], started_s + float(args["seconds"]))
    units = msgspec.convert(args["units"], list[Unit])
    grids = msgspec.convert(args["grids"], list[Grid])
    metric, found = str(args["metric"]), _Found()
    cut, base = False, np.zeros(0)
    try:
        model.try_batches(arrays)
        undisturbed = model.answers(arrays)
        base = losses_of(metric, undisturbed, truth)
        scores = right_scores(undisturbed, truth) if metric == TOP1 else -base
        _occlude(model, arrays, grids, lambda answers: scores - _scores(metric, answers, truth), found)
        for repeat in range(int(args["repeats"])):
            for number, unit in enumerate(units):
                order = order_of(len(truth), int(args["seed"]), number, repeat)
                losses = losses_of(metric, model.answers(shuffled(arrays, unit, order)), truth)
                found.repeats.setdefault(number, []).append(losses)
    except TimeOverError:
        cut = True
    features = [_row(unit, found.repeats[at], base) for at, unit in enumerate(units) if at in found.repeats]
    maps = [_map(grid, found, arrays, truth, metric, is_shown=args["is_shown"]) for grid in grids]
    whole = [one for one in maps if one is not None]
    missing = [unit.name for at, unit in enumerate(units) if at not in found.repeats]
    missing += [grid.input for grid in grids if grid.input not in {one.input for one in whole}]
    return {
        "base": metric_of(metric, base) if len(base) else 0.0,
        "features": msgspec.to_builtins(sorted(features, key=lambda row: -row.value)),
        "occlusion": msgspec.to_builtins(whole),
        "not_measured": missing,
        "cut": cut,
        "in_batches": model.in_batches,
        "shap": _shap(model, arrays, units, args) if args.get("shap") else {},
        "seconds": time.monotonic() - started_s,
    }


def _shap(model: AskedModel, arrays: dict[str, Array], units: list[Unit], args: dict[str, Any]) -> dict[str, Any]:
    """Return the SHAP part of the report; where it cannot be measured, why."""
    model.ends_s = time.monotonic() + SHAP_S
    tools = Path(args["tools"]) if args.get("tools") else None
    try:
        return shap_document(model, arrays, units, tools, is_class=args["metric"] == TOP1)
    except TimeOverError:
        return {"why": f"the model answers too slowly: it was not done after {SHAP_S:g} s"}
    except EdgefleetError as error:
        return {"why": f"{error.message}; {error.next_step}" if error.next_step else error.message}


def _scores(metric: str, answers: Array, truth: Array) -> Floats:
    return right_scores(answers, truth) if metric == TOP1 else -losses_of(metric, answers, truth)


def _occlude(
    model: AskedModel, arrays: Mapping[str, Array], grids: list[Grid], drop: Callable[[Array], Floats], found: _Found
) -> None:
    for grid in grids:
        for part in grid.parts():
            answers = model.answers(hidden(arrays, grid, part))
            found.drops[grid.input, part.row, part.column] = drop(answers)


def _row(unit: Unit, repeats: list[Floats], base: Floats) -> FeatureRow:
    effect = effect_of(base, repeats)
    low, high = effect.interval
    return FeatureRow(
        name=unit.name, input=unit.input, kind=unit.kind, value=effect.value, low=low, high=high, repeats=effect.repeats
    )


def _map(
    grid: Grid, found: _Found, arrays: Mapping[str, Array], truth: Array, metric: str, *, is_shown: bool
) -> OcclusionRow | None:
    """Return the maps of an input; None when the time did not suffice for all of its parts: half a map would mislead."""
    drops = {(r, c): drop for (name, r, c), drop in found.drops.items() if name == grid.input}
    if len(drops) < grid.rows * grid.columns:
        return None
    groups = truth if metric == TOP1 else np.full(len(truth), -1)
    return occlusion_row(grid, drops, arrays[grid.input], groups, is_shown=is_shown)
