"""The drift reference: what a model's inputs and answers look like when all is well, as histograms that add up (ADR 0099).

It is made of real samples only: those given for it, else the calibration data. The numbers of a sample come from
`edgefleet_runtime.signals`, the code that the device counts with.

1. A table (rank 2, at most 64 columns) has a signal for each column, named by its preprocess.json where that names columns. A picture
   (rank 4 with 1, 3 or 4 channels in one place) has brightness, contrast, blur and the mean of each channel. Any other input has mean,
   standard deviation, least and greatest.
2. A column is categorical where preprocess.json gives it categories, or where it has few values, whole ones all of them. Else its bins are
   bounded by its nine inner deciles, equal ones once.
3. Answered classes and their confidence are those of the first output of class scores. Regressions and independent scores of at most 16
   numbers are signals, too.
4. Where the time of samples is known, each signal is also counted by part of the day: four hours, UTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from edgefleet_converters.accuracy.output_kinds import CLASS_SCORES, INDEPENDENT, REGRESSION
from edgefleet_converters.errors import SideFileError
from edgefleet_converters.evaluation import Evaluation
from edgefleet_converters.job_steps import Answers, JobSteps, ModelFile
from edgefleet_converters.request import DataFiles
from edgefleet_converters.sample_data import REFERENCE, SampleSet, load_samples
from edgefleet_converters.sidefiles import read_preprocess
from edgefleet_protocol.drift.reference import (
    MAX_SIGNALS,
    MEMBER,
    Confidence,
    Reference,
    Signal,
    SignalKind,
    read_reference,
    write_reference,
)
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.preprocess import PREPROCESS_MEMBER, ColumnsInput, Preprocess, parse_preprocess
from edgefleet_runtime.privacy import NOTHING, PRIVACY_MEMBER, Privacy, parse_privacy, uncounted
from edgefleet_runtime.quantization import real_values
from edgefleet_runtime.signals import (
    ARRAY_WORDS,
    MAX_COLUMNS,
    MAX_NUMBERS,
    PICTURE_WORDS,
    counted,
    picture_axes,
    scores_of,
    signal_plan,
    signal_values,
)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

CONFIDENCE_EDGES: Final = [round(0.1 * i, 1) for i in range(1, 10)]
LARGE: Final = 1_000
"""Of fewer samples a reference sees only large shifts."""
LEAST: Final = 100
"""Of fewer nothing is judged (`edgefleet_protocol.drift.detector.LEAST_EFFECTIVE`)."""
_RANKS: Final = np.arange(1, 10) / 10
_MOST_VALUES: Final = 12
_LEAST_OF_VALUE: Final = 20
_MOST_WORDS: Final = 32
_DAY_S: Final = 86_400
_PART_S: Final = 4 * 3600


@dataclass(frozen=True)
class Answered:
    """What the source model answers, by output name, first axis = samples: not always to the same samples as the inputs are.

    kinds: of each output (`accuracy.output_kinds`), where known. times: unix seconds, or None.
    """

    outputs: Mapping[str, Array]
    specs: Sequence[TensorSpec]
    kinds: Mapping[str, str]
    times: Array | None = None


def add_reference(
    workshop: JobSteps,
    model: ModelFile,
    source: Answers,
    evaluation: Evaluation,
    files: DataFiles,
    side_files: dict[str, bytes],
) -> dict[str, Any]:
    """Add the drift reference to the side files where there is real data for it; return what the report says of it. Reads files.

    source: the source model's answers to the evaluation's samples. Raises a DataError, SideFileError, TransformError.
    """
    inputs, outputs = source.inputs, source.specs
    declared, private = side_files.get(PREPROCESS_MEMBER), side_files.get(PRIVACY_MEMBER)
    preprocess = parse_preprocess(declared) if declared is not None else None
    policy = parse_privacy(private) if private is not None else NOTHING
    if MEMBER in side_files:
        given = given_reference(side_files[MEMBER], inputs, outputs)
        given = _emptied(given, _hidden(given.features, inputs, preprocess, policy))
        side_files[MEMBER] = write_reference(given)
        return reference_facts(given, sum(given.classes))
    path = files.reference or files.calibration
    if not path:
        return {}
    role = REFERENCE if files.reference else "calibration"
    known = load_samples(Path(path), inputs, outputs, role, read_preprocess(files))
    if files.reference:
        answers, times = workshop.answers(model, source.runtime, known, key=REFERENCE).outputs, known.times
    else:  # these were answered anyhow; more would cost time
        answers, times = {name: array[: evaluation.n] for name, array in source.outputs.items()}, None
    answered = Answered(answers, outputs, {one.name: one.kind for one in evaluation.plan}, times)
    made = build_reference(known, inputs, answered, preprocess, role, policy)
    side_files[MEMBER] = write_reference(made)
    return reference_facts(made, len(next(iter(answers.values()))))


def build_reference(
    samples: SampleSet,
    inputs: Sequence[TensorSpec],
    answered: Answered,
    preprocess: Preprocess | None,
    source: str,
    policy: Privacy = NOTHING,
) -> Reference:
    """Return the reference of samples. source: what they were given as, "reference" or "calibration".

    Of a field that the policy drops or hashes by name it says nothing but that its values are missing.
    """
    features = _features(samples.arrays, inputs, preprocess)
    scores = _class_scores(answered)
    outputs = _output_signals(answered, scores, MAX_SIGNALS - len(features) - 1)
    hidden = _hidden(features, inputs, preprocess, policy)
    made = signal_values(samples.arrays, {}, signal_plan(Reference(n=0, features=features), inputs, [], hidden))
    features = _described(features, made, _categories(inputs, preprocess))
    known = Reference(n=samples.n, features=features, source=source)
    known = replace(known, features=_counted(known, made, inputs, [], samples.times))
    if answered.outputs:
        stand_in = {"": np.zeros(len(next(iter(answered.outputs.values()))))}
        told = Reference(n=0, outputs=outputs)
        given = signal_values(stand_in, answered.outputs, signal_plan(told, [], answered.specs))
        told = replace(told, outputs=_described(outputs, given, {}))
        known = replace(known, outputs=_counted(told, given, [], answered.specs, answered.times))
    if scores is not None:
        classes, confidence = _answers(scores, answered)
        known = replace(known, classes=classes, confidence=Confidence(CONFIDENCE_EDGES, confidence))
    return known


def reference_facts(reference: Reference, answers: int) -> dict[str, Any]:
    """Return what the report says of a reference. answers: samples of which the source's answers are counted."""
    note = ""
    if reference.n < LEAST:
        note = f"fewer than {LEAST} samples: no drift can be judged by it"
    elif reference.n < LARGE:
        note = f"fewer than {LARGE:,} samples: only large shifts are seen"
    return {
        "source": reference.source,
        "samples": reference.n,
        "answers": answers,
        "signals": len(reference.signals) + (1 if any(reference.classes) else 0),
        **({"by_hour": True} if any(one.hours for one in reference.signals) else {}),
        **({"note": note} if note else {}),
    }


def given_reference(data: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Reference:
    """Return a finished reference that fits the model. Raises SideFileError."""
    try:
        reference = read_reference(data)
        signal_plan(reference, inputs, outputs)
    except EdgefleetError as error:
        raise SideFileError(
            error.message, next_step="give samples as .npz, named as the model's inputs, or leave --reference out"
        ) from error
    return reference


def _hidden(
    features: Sequence[Signal], inputs: Sequence[TensorSpec], preprocess: Preprocess | None, policy: Privacy
) -> frozenset[str]:
    return uncounted(policy, preprocess or Preprocess(inputs=[]), inputs, [one.name for one in features])


def _emptied(reference: Reference, hidden: frozenset[str]) -> Reference:
    """Return a reference that says nothing of hidden signals but that their values are missing."""
    features = [
        Signal(name=one.name, kind=one.kind, missing=reference.n, counts=[0]) if one.name in hidden else one
        for one in reference.features
    ]
    return replace(reference, features=features)


def _features(arrays: Mapping[str, Array], inputs: Sequence[TensorSpec], preprocess: Preprocess | None) -> list[Signal]:
    """Return the signals of all inputs by name and kind (rule 1). An input for which there is no room any more has none."""
    found: list[Signal] = []
    for spec in inputs:
        array = arrays[spec.name]
        columns = array.size // len(array)
        if array.ndim <= 2 and 1 <= columns <= min(MAX_COLUMNS, MAX_SIGNALS // 2 - len(found)):
            names = column_names(spec, columns, preprocess)
            found += [Signal(name=f"{spec.name}.{name}") for name in names]
            continue
        axes = picture_axes(spec, array.shape)
        words = list(ARRAY_WORDS)
        if axes is not None:
            (channel,) = {1, 2, 3} - set(axes)
            channels = array.shape[channel] if array.shape[channel] > 1 else 0
            words = [*PICTURE_WORDS, *(f"channel_{i}" for i in range(channels))]
        if columns and len(found) + len(words) <= MAX_SIGNALS // 2:
            kind = SignalKind.IMAGE if axes else SignalKind.NUMERIC
            found += [Signal(name=f"{spec.name}.{word}", kind=kind) for word in words]
    return found


def column_names(spec: TensorSpec, columns: int, preprocess: Preprocess | None) -> list[str]:
    """Return the names of an input's columns: those of its preprocess.json where it names so many, else numbers from 0."""
    recipe = _columns_of(spec, preprocess)
    return recipe.columns if recipe is not None and len(recipe.columns) == columns else [str(i) for i in range(columns)]


def _columns_of(spec: TensorSpec, preprocess: Preprocess | None) -> ColumnsInput | None:
    named = [one for one in preprocess.inputs if one.name == spec.name] if preprocess is not None else []
    return named[0] if named and isinstance(named[0], ColumnsInput) else None


def _categories(inputs: Sequence[TensorSpec], preprocess: Preprocess | None) -> dict[str, int]:
    """Return how many categories a column has, by the name of its signal, where preprocess.json says so."""
    recipes = [(spec, recipe) for spec in inputs if (recipe := _columns_of(spec, preprocess)) is not None]
    return {
        f"{spec.name}.{column}": len(words)
        for spec, recipe in recipes
        if not recipe.steps
        for column, words in recipe.categories.items()
        if len(words) <= _MOST_WORDS
    }


def _class_scores(answered: Answered) -> str | None:
    """Return the name of the output whose classes are counted."""
    for spec in answered.specs:
        array = answered.outputs.get(spec.name)
        if array is None or array.ndim != 2 or array.shape[1] < 2 or len(spec.shape) != 2:
            continue
        if array.dtype.kind != "f" and spec.quantization is None:
            continue
        if answered.kinds.get(spec.name, CLASS_SCORES) == CLASS_SCORES:
            return spec.name
    return None


def _output_signals(answered: Answered, scores: str | None, room: int) -> list[Signal]:
    """Return a signal for each number of outputs that are regressions or scores on their own (rule 3)."""
    found: list[Signal] = []
    for spec in answered.specs:
        array = answered.outputs.get(spec.name)
        if array is None or spec.name == scores or array.ndim > 2 or not len(array):
            continue
        numbers = array.size // len(array)
        is_real = array.dtype.kind == "f" or spec.quantization is not None
        kind = answered.kinds.get(spec.name, REGRESSION)
        if is_real and kind in {REGRESSION, INDEPENDENT} and 1 <= numbers <= min(MAX_NUMBERS, room - len(found)):
            found += [Signal(name=f"{spec.name}.{i}", kind=SignalKind.OUTPUT) for i in range(numbers)]
    return found


def _described(signals: Sequence[Signal], values: Floats, categories: Mapping[str, int]) -> list[Signal]:
    """Return signals with their bins and figures. values: [samples, signals]."""
    return [
        _one(signal, column[~np.isnan(column)], categories.get(signal.name, 0))
        for signal, column in zip(signals, values.T, strict=True)
    ]


def _one(signal: Signal, values: Floats, categories: int) -> Signal:
    if not len(values):
        return signal
    low, high = float(values.min()), float(values.max())
    signal = replace(
        signal, mean=float(values.mean()), std=float(values.std()) if high > low else 0.0, low=low, high=high
    )
    distinct = np.unique(values)
    is_whole = bool((distinct == np.rint(distinct)).all())
    if signal.kind == SignalKind.NUMERIC and is_whole:
        if categories and low >= 0 and high < categories:
            return replace(signal, kind=SignalKind.CATEGORICAL, values=[float(i) for i in range(categories)])
        if 2 <= len(distinct) <= _MOST_VALUES and len(values) >= _LEAST_OF_VALUE * len(distinct):
            return replace(signal, kind=SignalKind.CATEGORICAL, values=distinct.tolist())
    edges = sorted({float(f"{edge:.7g}") for edge in np.quantile(values, _RANKS)})
    return replace(signal, edges=[edge for edge in edges if edge > low])


def _counted(
    reference: Reference,
    values: Floats,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    times: Array | None,
) -> list[Signal]:
    """Return the reference's signals with their counts: by the device's own code."""
    signals = reference.signals
    empty = [replace(one, counts=[0] * one.bins) for one in signals]
    plan = signal_plan(
        replace(
            reference,
            features=empty[: len(reference.features)],
            outputs=empty[len(reference.features) :],
        ),
        inputs,
        outputs,
    )
    hours: dict[str, list[list[int]]] = {}
    if times is not None and len(times) == len(values):
        part = (np.nan_to_num(times) % _DAY_S // _PART_S).astype(int)
        for one in sorted(set(part[np.isfinite(times)].tolist())):
            hours[str(one)] = [list(sums.bins) for sums in counted(values[part == one], plan)]
    return [
        replace(
            signal,
            counts=list(sums.bins),
            missing=sums.missing,
            hours={key: found[at] for key, found in hours.items()},
        )
        for at, (signal, sums) in enumerate(zip(signals, counted(values, plan), strict=True))
    ]


def _answers(scores: str, answered: Answered) -> tuple[list[int], list[int]]:
    """Return counts of classes and of confidences."""
    spec = next(one for one in answered.specs if one.name == scores)
    rows = real_values(spec, answered.outputs[scores])
    rows = rows[np.isfinite(rows).all(1)]
    if not len(rows):
        return [0] * rows.shape[1], [0] * (len(CONFIDENCE_EDGES) + 1)
    classes = np.bincount(rows.argmax(1), minlength=rows.shape[1])
    bins = np.searchsorted(CONFIDENCE_EDGES, scores_of(rows).max(1), side="right")
    confidence = np.bincount(bins, minlength=len(CONFIDENCE_EDGES) + 1)
    return [int(n) for n in classes], [int(n) for n in confidence]
