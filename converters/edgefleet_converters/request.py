"""What a conversion is asked to do, parsed once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edgefleet_converters.errors import BadRequestError
from edgefleet_profiles.profile import HardwareProfile, profile_from_dict
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import parse_model_name, parse_version

WantedPrecision = Literal[
    "auto", "fp32", "fp16", "int8", "dynamic", "int8-weights", "int4-weights", "int16x8", "int16-weights"
]


MAX_BUDGET_S: Final = 24 * 3600


class DataFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths of the files next to the model; None where there is none. parent: the ONNX model that this one continues."""

    calibration: str | None = None
    eval: str | None = None
    golden: str | None = None
    reference: str | None = None
    labels: str | None = None
    preprocess: str | None = None
    postprocess: str | None = None
    privacy: str | None = None
    recipe: str | None = None
    schedule: str | None = None
    parent: str | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's choices.

    metric: of the whole model; None = one for each output, by its kind. metrics: by output, for those that the user names.
    max_drop: how much worse than the source a candidate may be, in the metric's own unit. shapes: fixed shapes of inputs, by
    name. values: inputs that always have one value; they leave the model's inputs. allow_pickle: whether a pickle may be read.
    accept_data: the data is right, whatever looks wrong about it.
    explore: prove and measure the candidates behind the chosen one too; what is chosen stays the same. budget_s: seconds that the
    search of a profile may take; None = by the size of the source (`search_budget`). explain: measure which inputs matter; shap: by SHAP
    values too, in a tool environment.
    """

    precision: WantedPrecision = "auto"
    metric: str | None = None
    metrics: dict[str, str] = {}
    max_drop: float = 0.01
    seed: int = 0
    shapes: dict[str, list[int]] = {}
    values: dict[str, float] = {}
    allow_pickle: bool = False
    accept_data: bool = False
    explore: bool = False
    budget_s: float | None = None
    explain: bool = False
    shap: bool = False


class SourcePath(msgspec.Struct, frozen=True, kw_only=True):
    """Where the upload lies: a file or a folder."""

    path: str


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    v: Literal[1]
    model: str
    version: str
    source: SourcePath
    profiles: list[dict[str, Any]]
    out_dir: str
    data: DataFiles = DataFiles()
    options: Options = Options()
    tools_dir: str | None = None


@dataclass(frozen=True)
class ConversionRequest:
    """One conversion: a source, the profiles to serve, data and options. Paths are local and readable.

    tools_dir: folder of tool environments; None where there is none.
    """

    model: str
    version: str
    source: Path
    profiles: tuple[HardwareProfile, ...]
    data: DataFiles
    options: Options
    out_dir: Path
    tools_dir: Path | None = None


def parse_request(document: Any) -> ConversionRequest:
    """Return the request in a decoded JSON object. Raises BadRequestError naming the key that is wrong."""
    try:
        parsed = msgspec.convert(document, _Document)
        profiles = tuple(profile_from_dict(profile) for profile in parsed.profiles)
        model, version = parse_model_name(parsed.model), parse_version(parsed.version)
    except msgspec.ValidationError as error:
        raise BadRequestError(
            f"the conversion request is not valid: {error}", next_step="correct the option"
        ) from error
    except EdgefleetError as error:
        raise BadRequestError(error.message, next_step=error.next_step) from error
    if not profiles:
        raise BadRequestError("the conversion request names no profile", next_step="give at least one --profile")
    if len({profile.name for profile in profiles}) != len(profiles):
        raise BadRequestError("two profiles of the request have the same name", next_step="give each profile once")
    if not 0 <= parsed.options.max_drop <= 1:
        raise BadRequestError(
            f"max_drop must lie between 0 and 1, got {parsed.options.max_drop}", next_step="0.01 allows 1 % worse"
        )
    budget_s = parsed.options.budget_s
    if budget_s is not None and not 1 <= budget_s <= MAX_BUDGET_S:
        raise BadRequestError(
            f"the budget of a search must lie between 1 s and {MAX_BUDGET_S} s, got {budget_s:g} s",
            next_step="for example --budget 60s",
        )
    wrong = [
        name for name, shape in parsed.options.shapes.items() if not shape or any(not 0 < d < 2**31 for d in shape)
    ]
    if wrong:
        raise BadRequestError(
            f"the shape of {wrong[0]!r} must be lengths of at least 1, got {parsed.options.shapes[wrong[0]]}",
            next_step="for example [1, 3, 224, 224]",
        )
    return ConversionRequest(
        model=model,
        version=version,
        source=Path(parsed.source.path),
        profiles=profiles,
        data=parsed.data,
        options=parsed.options,
        out_dir=Path(parsed.out_dir),
        tools_dir=Path(parsed.tools_dir) if parsed.tools_dir else None,
    )
