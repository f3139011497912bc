"""The importance of the inputs of a release: which data, which metric, and what the report says where it cannot be measured.

Measured is the source model in its reference runtime, on all labelled evaluation data: both halves, since no choice hangs on it
(`evaluation`). Calibration data is not used: what a model was trained on often is in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.accuracy.output_kinds import CLASS_NUMBERS, CLASS_SCORES, INDEPENDENT, REGRESSION
from edgefleet_converters.drift_reference import column_names
from edgefleet_converters.errors import ConversionError
from edgefleet_converters.evaluation import EVALUATION, Evaluation
from edgefleet_converters.importance.importance_report import FeatureRow, ImportanceRow, OcclusionRow
from edgefleet_converters.importance.occlusion import grid_of
from edgefleet_converters.importance.permutation import MAE, TOP1, units_of
from edgefleet_converters.job_steps import Answers, JobSteps, ModelFile
from edgefleet_converters.sample_data import SampleSet, save_arrays
from edgefleet_runtime.preprocess import PREPROCESS_MEMBER, parse_preprocess
from edgefleet_runtime.privacy import NOTHING, PRIVACY_MEMBER, parse_privacy
from edgefleet_runtime.signals import picture_axes

Array = npt.NDArray[Any]

REPEATS: Final = 5
BUDGET_S: Final = 10.0
LEAST: Final = 30
"""Labelled samples of which an importance is said: of fewer the interval is wider than the scale."""
MOST_ROWS: Final = 1000
MOST_PICTURES: Final = 200
_SEED: Final = 0


def importance_of(  # noqa: PLR0913 - what it is measured on, and how
    workshop: JobSteps,
    model: ModelFile,
    source: Answers,
    evaluation: Evaluation,
    side_files: Mapping[str, bytes],
    *,
    budget_s: float = BUDGET_S,
    repeats: int = REPEATS,
    shap: bool = False,
    tools: Path | None = None,
) -> ImportanceRow:
    """Return the importance of the model's inputs. Never raises: a release is not refused because it cannot be explained.

    shap: measure SHAP values too, in the environment below `tools`.
    """
    samples = labelled(evaluation)
    if samples is None:
        return ImportanceRow(why="there is no labelled evaluation data: give --eval with labels `y`")
    if samples.n < LEAST:
        return ImportanceRow(why=f"the evaluation data has {samples.n} labelled samples; at least {LEAST} are needed")
    judged = judged_output(source, samples, evaluation)
    if judged is None:
        return ImportanceRow(why="the labels are no class numbers, and no values of an output")
    position, truth, metric = judged
    inputs = _inputs(source, samples, side_files)
    used = min(samples.n, MOST_PICTURES if inputs["grids"] else MOST_ROWS)
    rows = np.sort(np.random.default_rng(_SEED).permutation(samples.n)[:used])
    try:
        answer = _measured(
            workshop,
            samples.take(rows),
            truth[rows],
            {
                "runtime": source.runtime, "model": str(model.path), "threads": 1,
                "output": position, "metric": metric, "repeats": repeats, "seed": _SEED, "seconds": budget_s,
                "shap": shap, "tools": str(tools or ""), **inputs,
            },
        )  # fmt: skip
    except ConversionError as error:
        return ImportanceRow(why=f"it was not measured: {error.message}")
    cut = f"the measurement ended after {budget_s:g} s" if answer["cut"] else ""
    return ImportanceRow(
        why="" if answer["features"] or answer["occlusion"] else f"{cut}, before anything was measured",
        metric=metric,
        output=source.specs[position].name,
        base=answer["base"],
        n=used,
        given=samples.n,
        runtime=f"{source.runtime} {source.version}",
        seed=_SEED,
        features=msgspec.convert(answer["features"], list[FeatureRow]),
        occlusion=msgspec.convert(answer["occlusion"], list[OcclusionRow]),
        not_measured=answer["not_measured"],
        cut=cut,
        seconds=answer["seconds"],
        shap=answer["shap"],
    )


def _inputs(source: Answers, samples: SampleSet, side_files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what of the inputs is changed, and whether a picture may be shown: `units`, `grids` and `is_shown` of the step."""
    private = side_files.get(PRIVACY_MEMBER)
    policy = parse_privacy(private) if private is not None else NOTHING
    declared = side_files.get(PREPROCESS_MEMBER)
    preprocess = parse_preprocess(declared) if declared is not None else None
    shapes = {name: array.shape for name, array in samples.arrays.items()}
    axes = {spec.name: picture_axes(spec, shapes[spec.name]) for spec in source.inputs}
    tables = {name: shape for name, shape in shapes.items() if axes[name] is None}
    names = {spec.name: column_names(spec, int(np.prod(shapes[spec.name][1:])), preprocess) for spec in source.inputs}
    return {
        "units": msgspec.to_builtins(units_of(tables, names)),
        "grids": msgspec.to_builtins([grid_of(n, shapes[n], both) for n, both in axes.items() if both]),
        "is_shown": policy == NOTHING,
    }


def _measured(workshop: JobSteps, samples: SampleSet, truth: Array, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of the step. Raises a ConversionError."""
    data, labels = workshop.folder / "importance.npz", workshop.folder / "importance-labels.npz"
    save_arrays(data, samples.arrays)
    save_arrays(labels, {"y": truth})
    args = {**asked, "samples": str(data), "truth": str(labels)}
    return workshop.sandbox.execute("importance", args, what="measuring which inputs matter").answer


def labelled(evaluation: Evaluation) -> SampleSet | None:
    """Return all labelled evaluation samples; None where there are none."""
    if evaluation.source != EVALUATION or not evaluation.samples.labels:
        return None
    judging = SampleSet(evaluation.judging.arrays, evaluation.labels)
    held = evaluation.hold_out
    if held is None:
        return judging
    return SampleSet(
        {name: np.concatenate([array, held.arrays[name]]) for name, array in judging.arrays.items()},
        {name: np.concatenate([array, held.labels[name]]) for name, array in judging.labels.items()},
    )


def judged_output(source: Answers, samples: SampleSet, evaluation: Evaluation) -> tuple[int, Array, str] | None:
    """Return the position of the output that is judged, its labels and the metric; None where the labels fit no output."""
    kinds = {row.name: row.kind for row in evaluation.plan}
    for position, spec in enumerate(source.specs):
        answers = source.outputs[spec.name]
        truth = samples.labels.get(spec.name, samples.labels.get(""))
        if truth is None or not len(answers):
            continue
        width = answers.size // len(answers)
        kind = kinds.get(spec.name, CLASS_SCORES if width > 1 else REGRESSION)
        is_class = truth.ndim == 1 and truth.dtype.kind in "iub" and answers.ndim <= 2
        if is_class and (kind in {CLASS_SCORES, CLASS_NUMBERS} or (kind == INDEPENDENT and width == 1)):
            in_range = width == 1 or (int(truth.min()) >= 0 and int(truth.max()) < width)
            if in_range:
                return position, truth, TOP1
        elif truth.size == samples.n * width and answers.dtype.kind == "f" and kind in {REGRESSION, INDEPENDENT}:
            return position, truth, MAE
    return None
