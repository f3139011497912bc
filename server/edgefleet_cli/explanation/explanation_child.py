"""The child that asks the model: in the sandbox of conversions, without network, as far as the kernel allows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.structs import Struct, field
from edgefleet_cli.core.subprocesses import python_module, require
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.datasets.formats.npy_file import npz
from edgefleet_cli.explanation.captured_sample import Inputs
from edgefleet_cli.explanation.explained_model import ExplainedModel
from edgefleet_cli.release.conversion.local_conversion import environment
from edgefleet_cli.release.conversion.tool_environments import tools_folder

_MODULE: Final = "edgefleet_converters.importance.sample_explanation"
_MEMORY_BYTES: Final = 8 * 1024**3
SECONDS: Final = 20.0
_SPARE_S: Final = 120.0
_SHAP_S: Final = 600.0


class InputEffect(Struct, frozen=True):
    """One input. value: its effect on the score; changed: share of other values with which it is another class.

    is_, usual, usual_low, usual_high: the sample's value of a column, and the median and middle half of the comparison data.
    """

    name: str = ""
    input: str = ""
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    changed: float = 0.0
    is_: float | None = field(default=None, name="is")
    usual: float | None = None
    usual_low: float | None = None
    usual_high: float | None = None


class OutputPair(Struct, frozen=True):
    """What the device answered, and what the model answers here: the first numbers of an output. away: the largest difference."""

    name: str = ""
    there: tuple[float, ...] = ()
    here: tuple[float, ...] = ()
    size: int = 0
    away: float = 0.0
    is_same: bool = True


class Compared(Struct, frozen=True):
    """The answers there and here."""

    outputs: tuple[OutputPair, ...] = ()
    is_same: bool = True


class ShapValue(Struct, frozen=True):
    """What a column adds to the score, in that."""

    name: str = ""
    value: float = 0.0


class ShapOfSample(Struct, frozen=True):
    """SHAP values: together with `usual`, the mean score of the others, they add up to the score. exact: all sets were asked for."""

    features: tuple[ShapValue, ...] = ()
    usual: float = 0.0
    others: int = 0
    exact: bool = False


class SampleExplanation(Struct, frozen=True):
    """What was found. kind: class, value or distance; index: the class that is explained; here: the one that the model gives here."""

    runtime: str = ""
    output: str = ""
    kind: str = ""
    index: int = 0
    here: int = 0
    score: float = 0.0
    n: int = 0
    given: int = 0
    features: tuple[InputEffect, ...] = ()
    map: dict[str, Any] | None = None
    device: Compared | None = None
    shap: ShapOfSample | None = None
    not_kept: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()
    cut: str = ""


class ExplanationError(CliError):
    """The model could not be asked."""

    code = "cli.explanation"


def explained(
    folder: Path,
    model: ExplainedModel,
    inputs: Inputs,
    *,
    answer: int,
    is_class: bool,
    seconds: float = SECONDS,
    shap: bool = False,
) -> tuple[dict[str, Any], SampleExplanation]:
    """Return what the child found, as it said it and read. folder: an empty one of ours. answer: class of the device, -1 without.

    Raises ExplanationError, MissingPartError.
    """
    require("numpy", "convert")
    sample, device = folder / "sample.npz", folder / "device.npz"
    sample.write_bytes(npz(dict(inputs.arrays)))
    if inputs.outputs:
        device.write_bytes(npz(dict(inputs.outputs)))
    facts = model.facts
    asked = {
        "runtime": model.runtime, "model": str(model.path), "sample": str(sample), "comparison": str(model.comparison),
        "device": str(device) if inputs.outputs else "", "preprocess": str(model.preprocess or ""),
        "layouts": {name: spec.layout for name, spec in facts.inputs.items() if spec.layout},
        "columns": {name: list(one["columns"]) for name, one in facts.recipes.items() if one.get("columns")},
        "missing": {name: list(columns) for name, columns in inputs.missing.items()},
        "answer": answer, "is_class": is_class, "seconds": seconds, "shap": shap, "tools": str(tools_folder()),
    }  # fmt: skip
    scratch = folder / "scratch"
    scratch.mkdir()
    raw = _ask(asked, [folder, model.comparison], scratch, seconds + _SPARE_S + (_SHAP_S if shap else 0.0))
    return raw, struct_of(raw, SampleExplanation)


def _ask(asked: Mapping[str, Any], read: list[Path], scratch: Path, limit_s: float) -> dict[str, Any]:
    plan = {
        "limits": {"memory_bytes": _MEMORY_BYTES}, "read": [str(one) for one in read], "write": [str(scratch)],
        "run": [str(asked["tools"])],
    }  # fmt: skip
    python, *child = python_module(_MODULE)
    _, *launch = python_module("edgefleet_server.conversion.sandbox_entry", json.dumps(plan))
    try:
        done = subprocess.run(
            [python, "-P", *launch, python, "-P", *child],
            input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=limit_s, env=environment(scratch), cwd=scratch,
        )  # fmt: skip
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise ExplanationError(
            "the model could not be asked",
            why=str(error) if isinstance(error, subprocess.TimeoutExpired) else _last(done.stderr),
            next_step="run it again with --debug, and report what it prints",
        ) from error
    trouble = answer.get("error")
    if trouble:
        raise ExplanationError(
            str(trouble.get("message")),
            why=str(trouble.get("why") or ""),
            next_step=str(trouble.get("next") or ""),
            foreign_code=str(trouble.get("code") or ""),
        )
    found: dict[str, Any] = answer
    return found


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:240]
