"""The flags that `publish` and `convert` share, and what they mean together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.shared_flags import with_flags_of
from edgefleet_cli.release.conversion.model_files import locate
from edgefleet_cli.release.conversion.pickled_model import refuse_pickle
from edgefleet_protocol.ids import parse_model_name, parse_profile_name, parse_version


class Precision(StrEnum):
    """Which number formats the converter may offer."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    DYNAMIC = "dynamic"
    INT8_WEIGHTS = "int8-weights"
    INT4_WEIGHTS = "int4-weights"
    INT16X8 = "int16x8"
    INT16_WEIGHTS = "int16-weights"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=".onnx, .tflite, .skops, .pt2, .keras, a folder, or mlflow:, https:, s3:, dvc:."
    ),
]
OwnName = Annotated[
    str | None, typer.Option("--name", metavar="N", help="Name of the model; default: from the file name.")
]
OwnVersion = Annotated[
    str | None,
    typer.Option("--version", metavar="V", help="Version; default: from a file name like NAME-1.2.0.onnx, or dev."),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="P",
        help="Profile name or profile file; repeatable.",
        autocompletion=completion.profiles,
    ),
]
Calibration = Annotated[Path | None, typer.Option("--calibration", metavar="F.npz", help="Data to quantize with.")]
Evaluation = Annotated[
    Path | None, typer.Option("--eval", metavar="F.npz", help="Data to evaluate with, never to calibrate.")
]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="M",
        help="One metric, or OUTPUT=M for one output, repeatable; default: by the kind of each output.",
    ),
]
Golden = Annotated[
    Path | None, typer.Option("--golden", metavar="F.npz", help="Golden vectors; default: generated from the data.")
]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--reference",
        metavar="F",
        help="Samples for the drift reference, .npz, or a reference.msgpack; else of calibration.",
    ),
]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="F", help="Class names, one per line.")]
Preprocess = Annotated[
    Path | None, typer.Option("--preprocess", metavar="F.json", help="How raw input becomes tensors.")
]
Postprocess = Annotated[
    Path | None, typer.Option("--postprocess", metavar="F.json", help="How outputs become answers.")
]
PrivacyPolicy = Annotated[
    Path | None,
    typer.Option("--privacy", metavar="F.json", help="Which inputs may be captured; default: none."),
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option("--schedule", metavar="F.json", help="When devices run the model on a batch; default: never."),
]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Number format of the bundle.")]
MaxDrop = Annotated[float, typer.Option("--max-drop", min=0.0, max=1.0, help="Maximum accuracy drop, as a fraction.")]
Explore = Annotated[
    bool,
    typer.Option("--explore", help="Validate and measure every candidate; the choice stays the same."),
]
ExplainedBy = Annotated[
    str | None,
    typer.Option("--explain", metavar="shap", help="Measure which inputs matter by SHAP values too."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="TIME", help="Time for the search of a profile, like 60s; default: 60s up to 15 MB."
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="Fixed shape of an input; repeatable."),
]
Values = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=V", help="Fix an input to this value; it is no longer an input."),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read a pickle or joblib file; this runs its code, in a sandbox.")
]
AcceptData = Annotated[
    bool, typer.Option("--accept-data", help="The data is right, whatever the converter asks about it.")
]
MlflowUrl = Annotated[
    str | None,
    typer.Option("--mlflow-url", metavar="URL", help="Registry of mlflow: addresses; default: MLFLOW_TRACKING_URI."),
]
Recipe = Annotated[Path | None, typer.Option("--recipe", metavar="F", help="Conversion recipe.")]
DEFAULT_VERSION = "dev"
_VERSIONED = re.compile(r"(.+?)[-_]v?(\d+(?:\.\d+)+[0-9A-Za-z.+-]{0,40})")
_MAX_BUDGET_S = 24 * 3600
_LENGTH = re.compile(r"[0-9]{1,11}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")
DATA_KINDS = (
    "calibration", "eval", "golden", "reference", "labels", "preprocess", "postprocess", "privacy", "recipe", "schedule",
)  # fmt: skip


def data_files(*files: Path | None) -> dict[str, Path | None]:
    """Return the data files by kind, given in the order of `DATA_KINDS`."""
    return dict(zip(DATA_KINDS, files, strict=True))


@dataclass(frozen=True)
class ImportFlags:
    """How the source is read: fixed shapes and values of inputs by name, and whether a pickle may be."""

    shapes: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    allow_pickle: bool = False

    def options(self) -> dict[str, Any]:
        """Return what was given, and nothing else: the options of a release without these flags stay what they were."""
        given = {"shapes": self.shapes, "values": self.values, "allow_pickle": self.allow_pickle}
        return {name: value for name, value in given.items() if value}


def import_flags(shapes: list[str] | None, values: list[str] | None, allow_pickle: bool) -> ImportFlags:
    """Return the parsed `--shape`, `--set` and `--allow-pickle`. Raises UsageError."""
    parsed_shapes = {name: _shape(name, text) for name, text in map(_pair, shapes or [])}
    parsed_values = {name: _number(name, text) for name, text in map(_pair, values or [])}
    return ImportFlags(parsed_shapes, parsed_values, allow_pickle)


def metric_flags(given: str | Sequence[str] | None) -> tuple[str | None, dict[str, str]]:
    """Return the metric of the whole model and those of single outputs, as `--metric` gave them. Raises UsageError."""
    texts = [given] if isinstance(given, str) else list(given or [])
    whole = [text for text in texts if "=" not in text]
    if len(whole) > 1:
        raise UsageError(
            f"--metric was given as {' and '.join(whole)}",
            why="one metric judges the whole model; others are for single outputs",
            next_step=f"write OUTPUT=METRIC for one output, for example --metric scores={whole[1]}",
        )
    pairs = [text.rpartition("=") for text in texts if "=" in text]
    return (whole[0] if whole else None), {name: metric for name, _, metric in pairs}


def named_by(model: str, name: str | None, version: str | None) -> tuple[str, str]:
    """Return name and version of a model, made from the name of its file or folder where they are not given."""
    path = Path(model.removeprefix("file://"))
    stem = (path.name if path.is_dir() else path.stem) or "model"
    found = _VERSIONED.fullmatch(stem)
    if found is not None:
        stem, version = found.group(1), version or found.group(2)
    made = _NOT_IN_NAMES.sub("-", stem.lower()).strip("-._")[:63].rstrip("-._")
    return name or made or "model", version or DEFAULT_VERSION


def _pair(given: str) -> tuple[str, str]:
    name, equals, text = given.rpartition("=")
    if not equals or not name:
        raise UsageError(
            f"{given!r} is not NAME=VALUE",
            why="the name of an input of the model comes first",
            next_step="for example --shape image=1,3,224,224 or --set sr=16000",
        )
    return name, text


def _shape(name: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(_LENGTH.fullmatch(part) and 0 < int(part) < 2**31 for part in parts):
        raise UsageError(
            f"{text!r} is not the shape of {name}",
            why="a shape is a list of lengths of at least 1, with commas between them",
            next_step=f"for example --shape {name}=1,3,224,224",
        )
    return [int(part) for part in parts]


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(
            f"{text!r} is not a value for {name}",
            why="it is no finite number",
            next_step=f"for example --set {name}=16000",
        )
    return number


def _check_budget(given: str | None) -> None:
    if given is not None and not 1 <= parse_duration_s(given) <= _MAX_BUDGET_S:
        raise UsageError(
            f"{given!r} is not a budget for a search",
            why="a search takes at least 1 s and at most 24 h",
            next_step="for example --budget 60s or --budget 5m",
        )


@dataclass(frozen=True)
class ModelRequest:
    """What to convert: identity, profiles (None = the server's choice), data files by kind, options."""

    model: str
    name: str
    version: str
    profiles: tuple[str, ...] | None
    profile_files: tuple[dict[str, Any], ...]
    data: dict[str, Path | None]
    precision: str = Precision.AUTO.value
    metric: str | None = None
    max_drop: float = 0.01
    explore: bool = False
    reading: ImportFlags = ImportFlags()
    metrics: dict[str, str] = field(default_factory=dict)
    """Metrics of single outputs."""
    accept_data: bool = False
    budget_s: float | None = None
    seal: bool = False
    shap: bool = False
    """Measure which inputs matter by SHAP values too."""
    lineage: dict[str, str] = field(default_factory=dict)
    """Where the source came from, for the release: `uri`, `version`, `git_commit` …"""

    @property
    def options(self) -> dict[str, Any]:
        """Return the options as API and converter take them."""
        given: dict[str, Any] = {"precision": self.precision, "metric": self.metric, "max_drop": self.max_drop}
        chosen = {
            "metrics": self.metrics,
            "accept_data": self.accept_data,
            "explore": self.explore,
            "budget_s": self.budget_s,
            "seal": self.seal,
            "shap": self.shap,
        }
        return given | {name: value for name, value in chosen.items() if value} | self.reading.options()


def make_request(  # noqa: PLR0913 - the flags of the command
    *,
    model: str,
    name: str,
    version: str,
    profiles: list[str] | None,
    data: dict[str, Path | None],
    precision: Precision,
    metric: str | Sequence[str] | None,
    max_drop: float,
    explore: bool = False,
    accept_data: bool = False,
    budget_s: float | None = None,
    reading: ImportFlags = ImportFlags(),
    lineage: dict[str, str] | None = None,
    shap: bool = False,
) -> ModelRequest:
    """Return the checked request. Raises BadIdError, ProfileError, UsageError or UnreadableFileError before anything is sent."""
    source = locate(model)
    if not reading.allow_pickle:
        refuse_pickle(source)
    parse_model_name(name)
    parse_version(version)
    for kind, file in data.items():
        if file is not None and not file.is_file():
            raise UnreadableFileError(
                f"there is no file {file}",
                why=f"it was given with --{kind}",
                next_step="check the path; relative paths start at the working directory",
            )
    named: list[str] = []
    from_files: list[dict[str, Any]] = []
    for given in profiles or []:
        if given.endswith((".yaml", ".yml", ".json")) or "/" in given:
            from edgefleet_profiles import load_file
            from edgefleet_profiles.profile import profile_to_dict

            from_files.append(profile_to_dict(load_file(Path(given))))
        else:
            named.append(str(parse_profile_name(given)))
    chosen = tuple(named) if profiles else None
    whole, metrics = metric_flags(metric)
    return ModelRequest(
        model, name, version, chosen, tuple(from_files), data, precision.value, whole, max_drop, explore, reading,
        metrics, accept_data, budget_s, shap=shap, lineage=lineage or {},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The flags of a command that converts a model, as they were given."""

    profile: Profiles = None
    calibration: Calibration = None
    evaluation: Evaluation = None
    metric: Metric = None
    golden: Golden = None
    reference: Reference = None
    labels: Labels = None
    preprocess: Preprocess = None
    postprocess: Postprocess = None
    privacy: PrivacyPolicy = None
    schedule: ScheduleFile = None
    precision: PrecisionOption = Precision.AUTO
    max_drop: MaxDrop = 0.01
    explore: Explore = False
    explain: ExplainedBy = None
    budget: Budget = None
    recipe: Recipe = None
    shape: Shapes = None
    value: Values = None
    allow_pickle: AllowPickle = False
    accept_data: AcceptData = False

    def __post_init__(self) -> None:
        """Refuse what is no shape, value or time before anything is fetched. Raises UsageError."""
        import_flags(self.shape, self.value, self.allow_pickle)
        metric_flags(self.metric)
        _check_budget(self.budget)
        if self.explain not in {None, "shap"}:
            raise UsageError(
                f"{self.explain!r} is no way to explain a model",
                why="permutation and occlusion are always measured; SHAP values where it is asked for",
                next_step="give --explain shap, or leave it out",
            )

    def request(self, *, model: str, name: str, version: str, lineage: dict[str, str] | None = None) -> ModelRequest:
        """Return the request for a model, as `make_request` does."""
        return make_request(
            model=model,
            name=name,
            version=version,
            profiles=self.profile,
            data=data_files(*(getattr(self, "evaluation" if kind == "eval" else kind) for kind in DATA_KINDS)),
            precision=self.precision,
            metric=self.metric,
            max_drop=self.max_drop,
            explore=self.explore,
            accept_data=self.accept_data,
            budget_s=None if self.budget is None else parse_duration_s(self.budget),
            reading=import_flags(self.shape, self.value, self.allow_pickle),
            lineage=lineage,
            shap=self.explain == "shap",
        )


converting = with_flags_of(Conversion)
"""Gives a command the fields of `Conversion` as flags, in the place of its keyword `asked`."""
