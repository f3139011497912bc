"""The flags that `publish` and `convert` share, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.sources import UnreadableFileError, locate
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


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=".onnx, .tflite, a folder, or a file: URI.")]
Name = Annotated[str, typer.Option("--name", metavar="N", help="Name of the model.")]
VersionOption = Annotated[str, typer.Option("--version", metavar="V", help="Version of this release.")]
Profiles = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="P", help="Profile name or profile file; may be given again."),
]
Calibration = Annotated[Path | None, typer.Option("--calibration", metavar="F.npz", help="Data to quantize with.")]
Evaluation = Annotated[
    Path | None, typer.Option("--eval", metavar="F.npz", help="Data to judge with, never to calibrate.")
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", metavar="M", help="top1, agreement, mae, sequence, detection, scores or pkg.mod:func."),
]
Golden = Annotated[Path | None, typer.Option("--golden", metavar="F.npz", help="Golden vectors; made from data else.")]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="F", help="Samples for the drift reference, .npz, or a reference.msgpack."),
]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="F", help="Class names, one a line.")]
Preprocess = Annotated[
    Path | None, typer.Option("--preprocess", metavar="F.json", help="How raw input becomes tensors.")
]
Postprocess = Annotated[
    Path | None, typer.Option("--postprocess", metavar="F.json", help="How outputs become answers.")
]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Number format to offer.")]
MaxDrop = Annotated[float, typer.Option("--max-drop", min=0.0, max=1.0, help="Loss of the metric that is still fine.")]
Recipe = Annotated[Path | None, typer.Option("--recipe", metavar="F", help="Conversion recipe.")]

DATA_KINDS = ("calibration", "eval", "golden", "reference", "labels", "preprocess", "postprocess", "recipe")


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

    @property
    def options(self) -> dict[str, Any]:
        """Return the options as API and converter take them."""
        return {"precision": self.precision, "metric": self.metric, "max_drop": self.max_drop}


def make_request(  # noqa: PLR0913 - the flags of the command
    *,
    model: str,
    name: str,
    version: str,
    profiles: list[str] | None,
    data: dict[str, Path | None],
    precision: Precision,
    metric: str | None,
    max_drop: float,
) -> ModelRequest:
    """Return the checked request. Raises BadIdError, ProfileError or UnreadableFileError before anything is sent."""
    locate(model)
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
            from edgefleet_protocol.profile import profile_to_dict

            from_files.append(profile_to_dict(load_file(Path(given))))
        else:
            named.append(str(parse_profile_name(given)))
    chosen = tuple(named) if profiles else None
    return ModelRequest(model, name, version, chosen, tuple(from_files), data, precision.value, metric, max_drop)
