"""Divide the given data into what may tune a candidate, what judges it in the search, and what no choice has seen.

Rules:

1. Evaluation data given: one half judges in the search, the other is the hold-out; calibration samples that are also in it are taken
   out of the calibration.
2. Only calibration data: 40 % of it is held back, one half for the search and one as the hold-out.
3. Of fewer than `LEAST_PARTED` judging samples no hold-out is made: all of them judge.
4. No data: random input judges, and the report says so. Static int8 is then not possible.
5. Golden vectors come from the user's golden file, else from the judging samples, filled up with mixtures of the given ones
   when there are fewer than the recipe wants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.accuracy.data_questions import Given, questions
from edgefleet_converters.accuracy.output_kinds import Plan, plan_of
from edgefleet_converters.check.metrics import COUNTED, Choice, with_labels, with_named
from edgefleet_converters.errors import (
    DataDoubtError,
    DataEmptyError,
    DataShapeError,
    NotFiniteError,
    RefusedError,
    TransformError,
)
from edgefleet_converters.job_steps import Answers, JobSteps, ModelFile, refuse_empty, refuse_nonfinite
from edgefleet_converters.open_dimensions import (
    BY_DATA,
    BY_FOLDER,
    BY_GRAPH,
    BY_RECIPE,
    NO_LENGTHS,
    Lengths,
    Place,
    declared,
    missing,
    question,
)
from edgefleet_converters.recipe import Recipe
from edgefleet_converters.request import DataFiles, Options
from edgefleet_converters.sample_data import (
    SampleSet,
    check_samples,
    load_arrays,
    load_samples,
    random_samples,
    split_held_back,
    without_shared,
)
from edgefleet_converters.sidefiles import read_preprocess
from edgefleet_converters.source import FoundSource
from edgefleet_protocol.manifest import RANDOM_DATA, TensorSpec
from edgefleet_runtime.port import is_batched

Array = npt.NDArray[Any]

RANDOM_SAMPLES: Final = 100
MIN_GOLDEN: Final = 8
FIRST_SAMPLES: Final = 16
LEAST_PARTED: Final = 8
"""With fewer judging samples a half of them says next to nothing."""
_TRYING_S: Final = 20
"""Processor time for trying which lengths a model runs with."""
EVALUATION: Final = "evaluation data"
HOLD_OUT: Final = ", a part that no choice has seen"


@dataclass(frozen=True)
class Evaluation:
    """What is run. samples: all that a model is run on; the first `n` of them judge. golden: indices that may become golden.

    source: where the judging samples come from, in words. calibration: None when no data was given. shared: samples taken
    out of the calibration because they judge; given: all that it had. expected: the golden file's own outputs, when it has any.
    plan: how each output is judged, known when the source has answered. hold_out: what the chosen candidate is held against at
    the end. taken: by input, the shape that was taken for open dimensions where no data for judging shows them, and why.
    """

    samples: SampleSet
    n: int
    golden: tuple[int, ...]
    source: str
    calibration: SampleSet | None
    shared: int
    given: int
    is_random: bool
    golden_given: bool
    expected: dict[str, Array]
    plan: Plan = ()
    hold_out: SampleSet | None = None
    rows: tuple[int, ...] = ()
    taken: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def unseen(self) -> "Evaluation | None":
        """The hold-out as an evaluation of its own, None where there is none."""
        if self.hold_out is None:
            return None
        return replace(
            self, samples=self.hold_out, n=self.hold_out.n, golden=(), source=self.source + HOLD_OUT, hold_out=None
        )

    def allowed(self, metric: str, max_drop: float) -> float:
        """Return how much of a metric the search may lose. Where samples are counted, one in this part may change if one of all
        samples may: all of them together are held against `max_drop` at the end.
        """
        if self.hold_out is None or metric not in COUNTED or (self.n + self.hold_out.n) * max_drop < 1 - 1e-9:
            return max_drop
        return max(max_drop, 1 / self.n)

    def choice(self, metric: str | None) -> Choice:
        """Return how a candidate is judged. metric: named by the user for the whole model, which leaves no plan."""
        return self.plan or metric

    @cached_property
    def reversed(self) -> SampleSet:
        """All samples, the last one first; without labels, which only those that judge have."""
        return SampleSet({name: array[::-1] for name, array in self.samples.arrays.items()})

    @cached_property
    def first(self) -> SampleSet | None:
        """The first third of the judging samples, which shows a hopeless candidate early; None when they are too few for that."""
        first = max(FIRST_SAMPLES, self.n // 3)
        return self.samples.take(np.arange(first)) if self.n >= 2 * FIRST_SAMPLES else None

    @cached_property
    def judging(self) -> SampleSet:
        """The samples that judge."""
        return self.samples.take(np.arange(self.n))

    @property
    def labels(self) -> dict[str, Array]:
        """Labels of the judging samples."""
        return {name: array[: self.n] for name, array in self.samples.labels.items()}


def need_data(files: DataFiles, metric: str | None) -> None:
    """Raise DataEmptyError when a metric was asked for and nothing is given to measure it on: random input measures nothing."""
    if metric is not None and not files.eval and not files.calibration:
        raise DataEmptyError(
            f"the metric {metric} was asked for, but there is no data to measure it on",
            next_step="give --eval (or --calibration), or leave --metric out: the bundle is then marked unproven",
        )


def prepare_evaluation(
    files: DataFiles,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    recipe: Recipe,
    lengths: Lengths = NO_LENGTHS,
) -> Evaluation:
    """Return the divided data. Raises a DataError. Reads files. lengths: of open dimensions, for random input."""
    seed = recipe.seed
    steps = read_preprocess(files)
    calibration = (
        load_samples(Path(files.calibration), inputs, outputs, "calibration", steps) if files.calibration else None
    )
    shared, given = 0, calibration.n if calibration is not None else 0
    hold_out: SampleSet | None = None
    rows: tuple[int, ...] = ()
    if files.eval:
        judging = load_samples(Path(files.eval), inputs, outputs, "evaluation", steps)
        source = EVALUATION
        if calibration is not None:
            calibration, shared = without_shared(calibration, judging)
            if calibration.n == 0:
                raise DataEmptyError(
                    "every calibration sample is also an evaluation sample, so nothing may be used for calibration",
                    next_step="give calibration data of its own",
                )
        rows = hold_out_rows(judging.n, seed)
        judging, hold_out = halves(judging, seed)
    elif calibration is not None:
        calibration, held = split_held_back(calibration, seed)
        (calibration, judging, hold_out), shared = _apart(calibration, *halves(held, seed))
        source = "calibration data, held back"
    else:
        judging = random_samples(inputs, RANDOM_SAMPLES, seed=seed, shapes=lengths.shapes(inputs))
        source = RANDOM_DATA
    if calibration is not None and calibration.n > recipe.calibration_samples:
        order = np.random.default_rng(seed).permutation(calibration.n)[: recipe.calibration_samples]
        calibration = calibration.take(np.sort(order))
    golden, expected = _golden_file(files, inputs, outputs)
    extra = golden if golden is not None else _fill_up(judging, calibration, recipe)
    samples = judging if extra is None else _joined(judging, extra)
    first = judging.n if golden is not None else 0
    return Evaluation(
        samples=samples,
        n=judging.n,
        golden=tuple(range(first, samples.n)),
        source=source,
        calibration=calibration,
        shared=shared,
        given=given,
        is_random=not files.eval and calibration is None,
        golden_given=golden is not None,
        expected=expected,
        hold_out=hold_out,
        rows=rows,
        taken=lengths.told(inputs),
    )


def doubts(
    workshop: JobSteps, model: ModelFile, evaluation: Evaluation, reference: Answers, options: Options
) -> list[str]:
    """Return the questions that the judging data raises, empty without data.

    Raises DataDoubtError unless the user said that the data is right.
    """
    if evaluation.is_random:
        return []
    arrays = evaluation.judging.arrays
    answers = {name: array[: evaluation.n] for name, array in reference.outputs.items()}
    plan = evaluation.plan or with_labels(
        plan_of(reference.inputs, reference.specs, answers, model.facts.get("ends", ())), evaluation.labels, answers
    )
    asked = 0

    def ask(changed: Mapping[str, Array]) -> Mapping[str, Array]:
        nonlocal asked
        asked += 1
        return workshop.answers(model, reference.runtime, SampleSet(dict(changed)), key=f"doubt-{asked}").outputs

    shared = evaluation.shared if evaluation.source == EVALUATION else 0
    known = Given(
        reference.inputs, arrays, evaluation.labels, answers, plan, shared=shared, calibration=evaluation.given
    )
    found = questions(known, ask)
    if found and not options.accept_data:
        raise DataDoubtError(
            "; ".join(found), next_step="correct the data; if it is right as it is, say so with --accept-data"
        )
    return found


def known_lengths(
    workshop: JobSteps, model: ModelFile, found: FoundSource, files: DataFiles, inputs: tuple[TensorSpec, ...],
    recipe: Recipe,
) -> Lengths:  # fmt: skip
    """Return the lengths of open dimensions where no data for judging shows them (`open_dimensions`). Raises DynamicShapeError."""
    if files.eval or files.calibration or not missing(inputs, {}):
        return NO_LENGTHS
    is_onnx = found.format == "onnx"
    lengths = (
        NO_LENGTHS.and_of(
            {(name, at): n for name, shape in recipe.shapes.items() for at, n in enumerate(shape)}, BY_RECIPE
        )
        .and_of(_shown_lengths(files, inputs), BY_DATA)
        .and_of(declared(inputs, found.lengths), BY_FOLDER)
    )
    unknown = missing(inputs, lengths.known)
    if unknown and is_onnx:
        lengths = lengths.and_of(_decided_lengths(workshop, model, inputs, unknown), BY_GRAPH)
        unknown = missing(inputs, lengths.known)
    if unknown:
        raise question(inputs, unknown, is_fixable=is_onnx)
    return lengths


def _shown_lengths(files: DataFiles, inputs: tuple[TensorSpec, ...]) -> dict[Place, int]:
    """Return the lengths of open dimensions that golden or reference data shows. Reads files. Raises DataUnreadableError."""
    found: dict[Place, int] = {}
    for path, role in ((files.golden, "golden"), (files.reference, "reference")):
        arrays = load_arrays(Path(path), role) if path else {}
        for spec in inputs:
            array = arrays.get(f"in.{spec.name}", arrays.get(spec.name, arrays.get("x") if len(inputs) == 1 else None))
            if array is not None and is_batched(spec) and array.ndim == len(spec.shape):
                found |= {(spec.name, index): array.shape[index] for index in range(1, array.ndim)} | found
    return found


def _decided_lengths(
    workshop: JobSteps, model: ModelFile, inputs: tuple[TensorSpec, ...], places: Sequence[Place]
) -> dict[Place, int]:
    """Return the lengths of those open dimensions of an ONNX model that have no choice; empty where trying ends badly."""
    args = {"model": str(model.path), "inputs": msgspec.to_builtins(inputs), "places": list(places)}
    try:
        outcome = workshop.sandbox.build("onnx_open_lengths", args, what="trying open dimensions", cpu_s=_TRYING_S)
    except RefusedError:
        return {}
    return {(name, index): length for name, index, length in outcome.answer["lengths"]}


def source_answers(workshop: JobSteps, model: ModelFile, runtime: str, evaluation: Evaluation) -> Answers:
    """Return what the source answers to all samples. Raises TransformError, NotFiniteError."""
    reference = None
    try:
        # Not the gate's key: a TFLite file is run again there, so one that does not repeat its answers is seen.
        reference = workshop.answers(model, runtime, evaluation.samples, key="judging-source")
        refuse_nonfinite(reference, "the source model")
        refuse_empty(reference, "the source model")
    except (TransformError, NotFiniteError) as error:
        if evaluation.is_random and isinstance(error, NotFiniteError):
            raise NotFiniteError(
                f"{error.message}, given random input",
                next_step="give sample data with --eval: random values may be no input of this model",
            ) from error
        if reference is not None:
            raise
        raise TransformError(
            f"the source model itself does not run: {error.message}",
            next_step="give sample data with --eval, or export the model with fixed shapes"
            if evaluation.is_random
            else "check that the model takes each sample, and that its outputs have one shape for all of them",
        ) from error
    return reference


def halves(samples: SampleSet, seed: int) -> tuple[SampleSet, SampleSet | None]:
    """Return what judges in the search and what no choice sees, chosen by `seed`."""
    rows = hold_out_rows(samples.n, seed)
    if not rows:
        return samples, None
    return samples.take(np.setdiff1d(np.arange(samples.n), rows)), samples.take(np.array(rows))


def hold_out_rows(n: int, seed: int) -> tuple[int, ...]:
    """Return which of `n` judging samples no choice sees: half of them, or none of fewer than `LEAST_PARTED`."""
    if n < LEAST_PARTED:
        return ()
    order = np.random.default_rng(seed + 2).permutation(n)
    return tuple(int(row) for row in np.sort(order[(n + 1) // 2 :]))


def _apart(
    calibration: SampleSet, judging: SampleSet, hold_out: SampleSet | None
) -> tuple[tuple[SampleSet, SampleSet, SampleSet | None], int]:
    """Return the three parts without samples that are in a later part too, and how many were taken out; a part is not emptied."""
    taken = 0
    for later in (hold_out, judging):
        if later is None:
            continue
        alone, count = without_shared(calibration, later)
        calibration, taken = (alone, taken + count) if alone.n else (calibration, taken)
    if hold_out is not None:
        alone, _ = without_shared(judging, hold_out)
        judging = alone if alone.n else judging
    return (calibration, judging, hold_out), taken


def with_plan(evaluation: Evaluation, reference: Answers, ends: Sequence[str], options: Options) -> Evaluation:
    """Return the evaluation with the metric of each output; without one where one metric is named for the whole model. ends: the
    operators that make the outputs. Raises MetricError.
    """
    if options.metric is not None and not options.metrics:
        return evaluation
    answers = {name: array[: evaluation.n] for name, array in reference.outputs.items()}
    plan = with_labels(plan_of(reference.inputs, reference.specs, answers, ends), evaluation.labels, answers)
    return replace(evaluation, plan=with_named(plan, options.metric, options.metrics))


def run_shapes(evaluation: Evaluation, inputs: tuple[TensorSpec, ...]) -> dict[str, list[int]]:
    """Return the shapes of the inputs of a single run, by name: one sample, with its batch dimension where the model has one."""
    arrays = list(evaluation.samples.arrays.values())
    return {
        spec.name: [1, *array.shape[1:]] if is_batched(spec) else list(array.shape[1:])
        for spec, array in zip(inputs, arrays, strict=False)
    }


def _golden_file(
    files: DataFiles, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[SampleSet | None, dict[str, Array]]:
    """Return the golden file's samples and its expected outputs; it may be a plain `.npz` or a bundle's golden.npz."""
    if not files.golden:
        return None, {}
    arrays = load_arrays(Path(files.golden), "golden")
    expected: dict[str, Array] = {}
    if any(name.startswith("in.") for name in arrays):
        expected = {name.removeprefix("out."): array for name, array in arrays.items() if name.startswith("out.")}
        arrays = {name.removeprefix("in."): array for name, array in arrays.items() if name.startswith("in.")}
    samples = check_samples(arrays, inputs, outputs, "golden")
    if samples.n < MIN_GOLDEN:
        raise DataEmptyError(
            f"the golden data holds {samples.n} samples; a bundle needs at least {MIN_GOLDEN}",
            next_step="give more samples",
        )
    return SampleSet(samples.arrays), expected


def _fill_up(judging: SampleSet, calibration: SampleSet | None, recipe: Recipe) -> SampleSet | None:
    """Return samples made of the given samples' values when there are too few of those for golden vectors.

    Values of any other range are no input of the model: int8 cuts them off, and a right model would look wrong.
    """
    wanted = recipe.golden_vectors * 2 - judging.n
    if wanted <= 0:
        return None
    random = np.random.default_rng(recipe.seed + 1)
    made = {}
    for name, array in judging.arrays.items():
        others = calibration.arrays[name] if calibration is not None else array[:0]
        known = np.concatenate([array, others]) if others.shape[1:] == array.shape[1:] else array
        made[name] = _mixed(known, wanted, random)
    return SampleSet(made)


def _mixed(known: Array, n: int, random: np.random.Generator) -> Array:
    """Return `n` samples, each place with the value that a random one of `known` has there; of few, with a value of any place."""
    if len(known) < MIN_GOLDEN and known.size:
        return random.choice(known.reshape(-1), (n, *known.shape[1:]))
    return np.take_along_axis(known, random.integers(0, len(known), (n, *known.shape[1:])), axis=0)


def _joined(judging: SampleSet, extra: SampleSet) -> SampleSet:
    """Return both, one after the other. Raises DataError when golden samples have another size than the judging ones."""
    arrays = {}
    for name, array in judging.arrays.items():
        if array.shape[1:] != extra.arrays[name].shape[1:]:
            raise DataShapeError(
                f"golden samples of {name!r} have shape {list(extra.arrays[name].shape[1:])}, evaluation samples "
                f"{list(array.shape[1:])}",
                next_step="use one size for both",
            )
        arrays[name] = np.concatenate([array, extra.arrays[name]])
    return SampleSet(arrays, judging.labels)
