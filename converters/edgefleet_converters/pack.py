"""Put a chosen model and what belongs to it into a bundle. The same inputs give the same bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.parity import tolerances, usable_vectors
from edgefleet_converters.errors import GoldenError
from edgefleet_converters.evaluation import MIN_GOLDEN, Evaluation
from edgefleet_converters.job_steps import Answers, ModelFile, comparable
from edgefleet_converters.recipe import Recipe
from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.bundle import open_bundle, write_bundle
from edgefleet_protocol.manifest import Manifest, OperatorSet, RuntimeProof, TensorSpec, Tolerance
from edgefleet_protocol.manifest import Recipe as RecipeRecord
from edgefleet_runtime.golden import dump_golden
from edgefleet_runtime.quantization import stored_values

Array = npt.NDArray[Any]
ModelFormat = Literal["onnx", "ort", "tflite"]

_CPU_PROVIDER: Final = "CPUExecutionProvider"
_GOLDEN_SHARE: Final = 64 * 1024 * 1024
"""Golden vectors are cut down (never below 8) when they would take more bytes than this."""


@dataclass(frozen=True)
class Golden:
    """Chosen golden vectors. inputs, outputs: first axis = vectors."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    tolerances: dict[str, Tolerance]


def choose_golden(
    answers: Answers, reference: Answers, evaluation: Evaluation, recipe: Recipe, precision: str
) -> Golden:
    """Return golden vectors: the chosen model's own outputs, each checked against the source's.

    Raises GoldenError when fewer than 8 vectors hold, or when the user's own vectors do not.
    """
    pool = list(evaluation.golden)
    mine = {name: array[pool] for name, array in comparable(answers, reference).items()}
    theirs = {name: array[pool] for name, array in reference.outputs.items()}
    usable = usable_vectors(mine, theirs, precision)
    # The gate has held every answer; the vectors that are answered nearly as the source did are taken. One score of 6,625
    # that moved by 1 % is no reason to refuse a model. Of float32 nine of ten must serve: an error in every answer is none of
    # rounding.
    wanted = len(pool) if evaluation.golden_given else math.ceil(0.9 * len(pool)) if precision == "fp32" else MIN_GOLDEN
    if len(usable) < max(MIN_GOLDEN, wanted):
        raise GoldenError(
            f"{len(pool) - len(usable)} of {len(pool)} golden vectors differ from the source's answers by more than a "
            f"{precision} model may",
            next_step="give golden data of your own with --golden, or another precision",
        )
    count = len(usable) if evaluation.golden_given else recipe.golden_vectors
    chosen = usable[: _affordable(count, evaluation, answers)]
    _check_expected(evaluation, mine, tolerances(mine, theirs, answers.specs, precision, chosen))
    # The device compares what the file itself gives: stored integers where its outputs are quantized.
    given = {name: array[pool] for name, array in answers.outputs.items()}
    outputs = {name: array[chosen] for name, array in given.items()}
    declared = tolerances(given, theirs, answers.specs, precision, chosen)
    indices = np.array([pool[index] for index in chosen])
    inputs = {spec.name: stored_values(spec, evaluation.samples.arrays[spec.name][indices]) for spec in answers.inputs}
    return Golden(inputs, outputs, declared)


def _affordable(count: int, evaluation: Evaluation, answers: Answers) -> int:
    arrays = [*evaluation.samples.arrays.values(), *answers.outputs.values()]
    each = sum(array[:1].nbytes for array in arrays)
    return max(MIN_GOLDEN, min(count, _GOLDEN_SHARE // max(1, each)))


def _check_expected(evaluation: Evaluation, answers: dict[str, Array], declared: dict[str, Tolerance]) -> None:
    """Compare with the outputs that the user's golden file holds, if it holds any."""
    for name, wanted in evaluation.expected.items():
        if name not in answers:
            raise GoldenError(f"the golden data has an output {name!r} that the model has not", next_step="remove it")
        got, tolerance = answers[name].astype(np.float64), declared[name]
        if got.shape != wanted.shape:
            raise GoldenError(
                f"golden output {name!r} has shape {list(wanted.shape)}, the model answers {list(got.shape)}",
                next_step="make the golden data with this model",
            )
        allowed = tolerance.atol + tolerance.rtol * np.abs(wanted.astype(np.float64))
        if not bool((np.abs(got - wanted) <= allowed).all()):
            raise GoldenError(
                f"output {name!r} differs from the golden data by up to {float(np.abs(got - wanted).max()):.3g}, more than "
                f"the tolerance {tolerance.atol:.3g}",
                next_step="make the golden data with this model, or choose another precision",
            )


@dataclass(frozen=True)
class Contents:
    """All that goes into one bundle."""

    model: str
    version: str
    profile: HardwareProfile
    file: ModelFile
    format: ModelFormat
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    proofs: tuple[RuntimeProof, ...]
    golden: Golden
    recipe: Recipe
    source_sha256: str
    side_files: dict[str, bytes]
    report: dict[str, Any] = field(default_factory=dict)


def required_operators(facts: Mapping[str, Any]) -> list[OperatorSet]:
    """Return what a runtime must have to run a file with these facts (of `onnx.load` or `tflite.load`)."""
    if "required_operators" in facts:
        return msgspec.convert(facts["required_operators"], list[OperatorSet])
    names: dict[int, set[str]] = {}
    for node in facts["nodes"]:
        names.setdefault(int(node["version"]), set()).add(str(node["name"]))
    return [OperatorSet(domain="tflite", version=v, operators=sorted(found)) for v, found in sorted(names.items())]


def execution_providers(profile: HardwareProfile) -> list[str]:
    """Return the execution providers of a board with onnxruntime, the CPU last; none for other runtimes."""
    if profile.runtime.name != "ort":
        return []
    return list(dict.fromkeys([*profile.delegates, _CPU_PROVIDER]))


def build_bundle(contents: Contents) -> bytes:
    """Return the bundle's bytes, read back once with the device's own reader. Latency and memory are not declared: they
    are no facts of the model but of this host (the report has them).
    """
    member = f"model.{contents.format}"
    members = {
        member: contents.file.path.read_bytes(),
        "golden.npz": dump_golden(contents.golden.inputs, contents.golden.outputs),
        **contents.side_files,
    }
    manifest = Manifest(
        model=contents.model,
        version=contents.version,
        profile=contents.profile.name,
        runtime=contents.profile.runtime.name,
        model_member=member,
        precision=contents.precision,
        format=contents.format,
        inputs=list(contents.inputs),
        outputs=list(contents.outputs),
        runtimes=list(contents.proofs),
        tolerances=contents.golden.tolerances,
        source_sha256=contents.source_sha256,
        recipe=RecipeRecord(sha256=contents.recipe.sha256, steps=contents.recipe.to_data()),
        operators=dict(contents.file.facts["operators"]),
        opset=contents.file.facts.get("opset"),
        required_operators=required_operators(contents.file.facts),
        execution_providers=execution_providers(contents.profile),
        report=contents.report,
        licence=str(contents.file.facts.get("licence", "")),
    )
    data = write_bundle(members, manifest)
    open_bundle(BytesIO(data)).verify_members()
    return data
