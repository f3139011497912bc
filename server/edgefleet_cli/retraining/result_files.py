"""What a training leaves in its folder, by name, as the publication of a release. Pure.

1. Exactly one of `model.*` or the folder `model` is the source.
2. The data files have fixed names. One that is not there is taken from the parent, where that has one.
3. `publish.json` holds further flags of `edgectl publish` by their long names: `{"precision": "int8", "max-drop": 0.02}`.
4. Without a version in `publish.json` it is the next free one after the parent's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from edgefleet_cli.core.errors import CliError
from edgefleet_protocol.run_schedule import SCHEDULE_MEMBER

MODEL: Final = "model"
FLAGS: Final = "publish.json"
DATA_FILES: Final[Mapping[str, str]] = {
    "calibration": "calibration.npz",
    "eval": "eval.npz",
    "golden": "golden.npz",
    "reference": "reference.npz",
    "labels": "labels.txt",
    "preprocess": "preprocess.json",
    "postprocess": "postprocess.json",
    "privacy": "privacy.json",
    "schedule": SCHEDULE_MEMBER,
}
"""Files of a result by what they are for, as `edgectl publish` names that."""
OF_THE_PARENT: Final = frozenset(DATA_FILES.keys() - {"golden"})
"""Golden vectors are not among them: they are answers of the parent."""
_TEXTS: Final = frozenset({"precision", "budget"})
_LISTS: Final = frozenset({"profile", "metric", "shape", "set"})
_SWITCHES: Final = frozenset({"explore", "accept-data", "seal"})
_FIELD_OF: Final = {"set": "value"}
_NUMBERED = re.compile(r"(.*?)(\d{1,18})")


class TrainingResultError(CliError):
    """What a training left cannot be published."""

    code = "training.result"


def model_name(names: Iterable[str]) -> str:
    """Return which of the names in the folder is the source. Raises TrainingResultError."""
    found = sorted(name for name in names if name == MODEL or name.startswith(f"{MODEL}."))
    if len(found) != 1:
        raise TrainingResultError(
            "the training left no model" if not found else f"the training left several models: {', '.join(found)}",
            why="expected one file model.* or one folder model in $EDGEFLEET_OUT",
            next_step="let the command write its model there, for example model.onnx",
        )
    return found[0]


def flags_of(document: Any) -> tuple[dict[str, Any], str]:
    """Return the flags of a `publish.json` as fields of `Conversion` and of `ModelRequest`, and its version, "" without.

    Raises TrainingResultError for what is no flag, or no value of it.
    """
    if not isinstance(document, dict):
        raise _bad_flags("it is no object")
    flags: dict[str, Any] = {}
    version = ""
    for name, value in document.items():
        if name == "version" and isinstance(value, str):
            version = value
        elif (name in _TEXTS and isinstance(value, str)) or (name in _SWITCHES and isinstance(value, bool)):
            flags[name.replace("-", "_")] = value
        elif name in _LISTS and isinstance(value, list) and all(isinstance(one, str) for one in value):
            flags[_FIELD_OF.get(name, str(name))] = value
        elif name == "max-drop" and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            flags["max_drop"] = float(value)
        else:
            raise _bad_flags(f"{name} cannot be {value!r}")
    return flags, version


def next_version(parent: str, taken: Collection[str]) -> str:
    """Return the first free version after the parent's: its last number plus one, else `PARENT-r1`, `-r2` and so on."""
    match = _NUMBERED.fullmatch(parent)
    head, number = (match.group(1), int(match.group(2)) + 1) if match else (f"{parent[:50]}-r", 1)
    while f"{head}{number}" in taken:
        number += 1
    return f"{head}{number}"


def _bad_flags(why: str) -> TrainingResultError:
    known = sorted({*_TEXTS, *_LISTS, *_SWITCHES, "max-drop", "version"})
    return TrainingResultError(
        f"{FLAGS} of the training cannot be used",
        why=why,
        next_step=f"it may name {', '.join(known)}, each as edgectl publish has it",
    )
