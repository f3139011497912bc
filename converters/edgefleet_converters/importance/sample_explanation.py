"""Process entry of `edgectl explain`: which inputs made the answer to one sample. One JSON object on stdin, one on stdout.

Asked: {runtime, model, sample: npz, comparison: npz, device: npz of what the device answered or "", preprocess: file or "", layouts: by
input, columns: names by input, missing: columns by input ([] = the whole input), answer: class of the device or -1, is_class, seconds,
shap: bool, tools: folder}. Samples and comparison data are the model's inputs, first axis = samples. The comparison data stands for
what is usual; at most MOST_ROWS of it are drawn, of pictures MOST_PICTURES.

Answered: {runtime, output, kind, index, here, score, n, given, features, map, device, not_kept, not_measured, cut, shap where asked}, or
{"error": {code, message, why, next}}.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.run_model import loaded
from edgefleet_converters.errors import BadRequestError
from edgefleet_converters.importance.importance_report import shortened
from edgefleet_converters.importance.local_effects import (
    CLASS,
    Reading,
    effect_of,
    hidden_parts,
    missing_units,
    reading_of,
    repeated,
    replaced,
)
from edgefleet_converters.importance.model_runs import AskedModel, TimeOverError
from edgefleet_converters.importance.occlusion import grid_of, picture_map
from edgefleet_converters.importance.permutation import Unit, units_of
from edgefleet_converters.importance.table_shap import MOST_SAMPLES, check_tables, drawn, explained_rows
from edgefleet_converters.sample_data import load_samples, read_arrays
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import ModelRuntime
from edgefleet_runtime.preprocess import parse_preprocess
from edgefleet_runtime.quantization import real_values
from edgefleet_runtime.signals import picture_axes

Array = npt.NDArray[Any]

MOST_ROWS: Final = 200
MOST_PICTURES: Final = 50
LEAST: Final = 8
_SEED: Final = 0
_ALIKE: Final = 0.01
"""How far a device's answer may be from the one here, as a share of its largest number, to be called the same."""
_SHOWN: Final = 16
_SHAP_S: Final = 300.0


def main() -> int:
    """Read what is asked, write the answer, return the exit code."""
    try:
        answer = explain(json.load(sys.stdin))
    except EdgefleetError as error:
        trouble = {"code": error.code, "message": error.message, "why": error.reason(), "next": error.next_step}
        sys.stdout.write(json.dumps({"error": trouble}) + "\n")
        return 1
    sys.stdout.write(json.dumps(shortened(answer)) + "\n")
    return 0


def explain(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer. Raises LoadFailedError, a DataError, RunError, BadRequestError."""
    try:
        return _explained(asked)
    except TimeOverError as error:
        raise BadRequestError(
            f"the model answers too slowly: {asked['seconds']:g} s did not suffice, or {_SHAP_S:g} s for SHAP values",
            next_step="run it on a faster machine, without --shap, or with fewer samples to compare with: --compare",
        ) from error


def _explained(asked: Mapping[str, Any]) -> dict[str, Any]:
    runtime = loaded(asked["runtime"], Path(asked["model"]).read_bytes(), threads=1)
    specs = _inputs(runtime, asked["layouts"])
    sample = read_arrays(Path(asked["sample"]))
    others, given = _comparison(asked, specs, runtime, sample)
    model = AskedModel(runtime, _output(runtime), time.monotonic() + float(asked["seconds"]))
    n = len(next(iter(others.values())))
    grids = [
        grid_of(one.name, sample[one.name].shape, axes)
        for one in specs
        if (axes := picture_axes(one, sample[one.name].shape)) is not None
    ]
    tables = {one.name: sample[one.name].shape for one in specs if one.name not in {grid.input for grid in grids}}
    units = units_of(tables, asked["columns"])
    missing = missing_units(units, asked["missing"])
    own = repeated(sample, n if missing else 1)
    for unit in missing:
        own = replaced(own, others, unit)
    model.try_batches(others)
    mine = model.answers(own)
    reading = reading_of(mine.mean(axis=0, keepdims=True), int(asked["answer"]), is_class=asked["is_class"])
    result: dict[str, Any] = {
        "runtime": f"{runtime.name} {runtime.version}", "output": model.output.name, "kind": reading.kind,
        "index": reading.index, "here": int(reading.class_of(mine.mean(axis=0, keepdims=True))[0]),
        "score": float(reading.scores(mine).mean()), "n": n, "given": given,
        "device": _device(runtime, own, asked["device"]),
    }  # fmt: skip
    wanted = [unit for unit in units if unit not in missing]
    whole = own if missing else repeated(sample, n)
    mine = mine if missing else np.repeat(mine, n, axis=0)
    features, cut = _features(model, reading, (whole, mine, others), wanted)
    maps = [] if cut or missing else _maps(model, reading, (sample, mine, others), grids)
    found = {row["name"] for row in features}
    if asked.get("shap"):
        result["shap"] = _shap(model, reading, (sample, others), units, asked)
    return result | {
        "features": features,
        "map": maps[0] if maps else None,
        "not_kept": [unit.name for unit in missing],
        "not_measured": [unit.name for unit in wanted if unit.name not in found],
        "cut": f"the measurement ended after {asked['seconds']:g} s" if cut else "",
    }


def _inputs(runtime: ModelRuntime, layouts: Mapping[str, str]) -> list[TensorSpec]:
    return [msgspec.structs.replace(one, layout=layouts.get(one.name, one.layout)) for one in runtime.inputs]


def _comparison(
    asked: Mapping[str, Any], specs: list[TensorSpec], runtime: ModelRuntime, sample: Mapping[str, Array]
) -> tuple[dict[str, Array], int]:
    """Return the samples that the sample is compared with, and of how many they were drawn."""
    declared = asked["preprocess"]
    preprocess = parse_preprocess(Path(declared).read_bytes()) if declared else None
    data = load_samples(Path(asked["comparison"]), tuple(specs), tuple(runtime.outputs), "comparison", preprocess)
    for name, array in data.arrays.items():
        if name not in sample or sample[name].shape[1:] != array.shape[1:]:
            raise BadRequestError(
                f"what is kept of {name} has the shape {list(sample[name].shape[1:]) if name in sample else 'of nothing'}, "
                f"the model takes {list(array.shape[1:])}",
                next_step="a policy that crops or scales pictures keeps less than the model saw: see docs/how-to/explain-a-model.md",
            )
    if data.n < LEAST:
        raise BadRequestError(
            f"there are {data.n} samples to compare with; at least {LEAST} are needed",
            next_step="publish with --reference or --calibration",
        )
    has_pictures = any(picture_axes(one, sample[one.name].shape) is not None for one in specs)
    most = min(data.n, MOST_PICTURES if has_pictures else MOST_ROWS)
    rows = np.sort(np.random.default_rng(_SEED).permutation(data.n)[:most])
    return data.take(rows).arrays, data.n


def _output(runtime: ModelRuntime) -> TensorSpec:
    """Return the output that is explained: the first one of numbers that are no whole ones, else the first."""
    real = [one for one in runtime.outputs if one.dtype.startswith("float") or one.quantization is not None]
    return (real or list(runtime.outputs))[0]


def _features(
    model: AskedModel, reading: Reading, data: tuple[Mapping[str, Array], Array, Mapping[str, Array]], units: list[Unit]
) -> tuple[list[dict[str, Any]], bool]:
    """Return a row a unit, the largest effect first, and whether the time ended it."""
    whole, mine, others = data
    rows: list[dict[str, Any]] = []
    cut = False
    try:
        for unit in units:
            effect = effect_of(reading, mine, model.answers(replaced(whole, others, unit)))
            rows.append(
                {
                    "name": unit.name,
                    "input": unit.input,
                    "value": effect.value,
                    "low": effect.low,
                    "high": effect.high,
                    "changed": effect.changed,
                    **_values(unit, whole, others),
                }
            )
    except TimeOverError:
        cut = True
    return sorted(rows, key=lambda row: -abs(row["value"])), cut


def _values(unit: Unit, whole: Mapping[str, Array], others: Mapping[str, Array]) -> dict[str, float | None]:
    """Return the sample's value of a column, and what is usual: the median and the middle half of the others."""
    if unit.end != unit.first + 1:
        return {"is": None, "usual": None, "usual_low": None, "usual_high": None}
    own = float(whole[unit.input].reshape(len(whole[unit.input]), -1)[0, unit.first])
    column = others[unit.input].reshape(len(others[unit.input]), -1)[:, unit.first].astype(np.float64)
    low, middle, high = (float(one) for one in np.nanquantile(column, [0.25, 0.5, 0.75]))
    return {"is": own, "usual": middle, "usual_low": low, "usual_high": high}


def _shap(
    model: AskedModel,
    reading: Reading,
    data: tuple[Mapping[str, Array], Mapping[str, Array]],
    units: list[Unit],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the SHAP values of the sample. Raises ToolMissingError, ToolFailedError, BadRequestError."""
    sample, others = data
    check_tables(units, list(sample))
    if asked["missing"]:
        raise BadRequestError(
            "SHAP needs every column, and the policy does not keep all", next_step="run it without --shap"
        )
    some = drawn(others, MOST_SAMPLES)[0]
    model.ends_s = time.monotonic() + _SHAP_S
    found, _ = explained_rows(model, sample, some, Path(asked["tools"]), is_class=asked["is_class"])
    index = reading.index if reading.kind == CLASS else 0
    values = found.values[0, :, index]
    rows = [{"name": unit.name, "value": float(value)} for unit, value in zip(units, values, strict=True)]
    return {
        "exact": found.exact, "versions": found.versions, "others": len(next(iter(some.values()))),
        "usual": float(reading.scores(model.answers(some)).mean()), "features": sorted(rows, key=lambda row: -abs(float(row["value"]))),
    }  # fmt: skip


def _maps(
    model: AskedModel, reading: Reading, data: tuple[Mapping[str, Array], Array, Mapping[str, Array]], grids: list[Any]
) -> list[dict[str, Any]]:
    sample, mine, others = data
    found = []
    for grid in grids:
        answers = model.answers(hidden_parts(sample, others, grid))
        drop = reading.scores(mine[:1])[0] - reading.scores(answers)
        rows = drop.reshape(grid.rows, grid.columns).tolist()
        found.append({"input": grid.input, **picture_map(sample[grid.input], grid, rows)})
    return found


def _device(runtime: ModelRuntime, own: Mapping[str, Array], given: str) -> dict[str, Any] | None:
    """Return what the device answered next to what the model answers here, output by output; None where it is not kept."""
    if not given:
        return None
    said = read_arrays(Path(given))
    outputs: list[dict[str, Any]] = []
    for spec in runtime.outputs:
        if spec.name not in said:
            continue
        there = real_values(spec, said[spec.name]).reshape(-1).astype(np.float64)
        here = AskedModel(runtime, spec, time.monotonic() + 60.0).answers(own)
        now = here.mean(axis=0).reshape(-1).astype(np.float64) if here.dtype.kind == "f" else here[0].reshape(-1)
        if now.shape != there.shape:
            continue
        away = float(np.abs(now - there).max(initial=0.0))
        scale = max(float(np.abs(there).max(initial=0.0)), 1e-9)
        outputs.append(
            {
                "name": spec.name,
                "there": there[:_SHOWN].tolist(),
                "here": now[:_SHOWN].astype(float).tolist(),
                "size": int(there.size),
                "away": away,
                "is_same": away <= _ALIKE * scale,
            }
        )
    return {"outputs": outputs, "is_same": all(one["is_same"] for one in outputs)} if outputs else None


if __name__ == "__main__":
    sys.exit(main())
