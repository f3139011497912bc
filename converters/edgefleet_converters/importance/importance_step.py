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
from edgefleet_converters.sample_data import read_arrays
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import ModelRuntime
from edgefleet_runtime.quantization import real_values, stored_values

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_CHUNK: Final = 256
"""Samples of one run where the model takes several, and between two looks at the time where it does not."""
_TRIED: Final = 3
_ALIKE: Final = 1e-3


class _TimeOverError(Exception):
    """The time of the measurement is over."""


@dataclass
class _Model:
    """A model in its runtime, asked for one output. ends_s: when the time is over, monotonic."""

    runtime: ModelRuntime
    output: TensorSpec
    ends_s: float
    in_batches: bool = False

    def answers(self, arrays: Mapping[str, Array]) -> Array:
        """Return what it answers to samples, [n, …] in real values. Raises _TimeOverError, RunError, InputError."""
        n = len(next(iter(arrays.values())))
        found: list[Array] = []
        step = _CHUNK if self.in_batches else 1
        for at in range(0, n, step):
            if at % _CHUNK == 0 and time.monotonic() > self.ends_s:
                raise _TimeOverError
            found.append(self._run(arrays, at, step))
        return np.concatenate(found)

    def _run(self, arrays: Mapping[str, Array], at: int, step: int) -> Array:
        inputs = {
            spec.name: stored_values(
                spec, arrays[spec.name][at : at + step] if step > 1 else slice_sample(spec, arrays[spec.name], at)
            )
            for spec in self.runtime.inputs
        }
        answer = real_values(self.output, np.asarray(self.runtime.run(inputs)[self.output.name]))
        return answer if step > 1 or answer.shape[:1] == (1,) else answer[None]

    def try_batches(self, arrays: Mapping[str, Array]) -> None:
        """Run several samples at once from now on, where the model takes them and answers the same."""
        if not all(spec.shape and isinstance(spec.shape[0], str) for spec in self.runtime.inputs):
            return
        few = {name: array[:_TRIED] for name, array in arrays.items()}
        alone = self.answers(few)
        self.in_batches = True
        try:
            together = self.answers(few)
        except EdgefleetError:
            together = alone[:0]
        scale = max(float(np.abs(alone).max(initial=0.0)), 1e-9)
        self.in_batches = together.shape == alone.shape and bool(np.abs(together - alone).max() <= _ALIKE * scale)


@dataclass
class _Found:
    """What was measured so far."""

    repeats: dict[int, list[Floats]] = field(default_factory=dict)
    drops: dict[tuple[str, int, int], Floats] = field(default_factory=dict)


def importance_step(args: dict[str, Any]) -> dict[str, Any]:
    """Sandbox step. args: {runtime, model, threads, samples: npz, truth: npz with `y`, output: position, metric, units, grids,
    is_shown, repeats, seed, seconds}.

    Returns `{base, features, occlusion, not_measured, cut, seconds}` as in `ImportanceRow`. Raises LoadFailedError, RunError.
    """
    started_s = time.monotonic()
    runtime = loaded(args["runtime"], Path(args["model"]).read_bytes(), threads=int(args["threads"]))
    arrays = read_arrays(Path(args["samples"]))
    truth = read_arrays(Path(args["truth"]))["y"]
    model = _Model(runtime, runtime.outputs[int(args["output"])], started_s + float(args["seconds"]))
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
    except _TimeOverError:
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
        "seconds": time.monotonic() - started_s,
    }


def _scores(metric: str, answers: Array, truth: Array) -> Floats:
    return right_scores(answers, truth) if metric == TOP1 else -losses_of(metric, answers, truth)


def _occlude(
    model: _Model, arrays: Mapping[str, Array], grids: list[Grid], drop: Callable[[Array], Floats], found: _Found
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
