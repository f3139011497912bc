"""The lists of TFLite operators that profiles name in `operator_set`, one YAML file a runtime and version in `operators/`.

A list is measured on the runtime itself (its first line says how); a profile's own `tflite_op_allowlist` wins over it.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from edgefleet_profiles.profile import HardwareProfile, OperatorLimit, ProfileError

_FOLDER = "operators"


@cache
def operator_sets() -> tuple[str, ...]:
    """Return the names of the lists, sorted."""
    folder = resources.files("edgefleet_profiles") / _FOLDER
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


@cache
def operator_set(name: str) -> Mapping[str, OperatorLimit]:
    """Return operator -> limit of a list. Raises ProfileError with close names when there is none of this name."""
    if name not in operator_sets():
        close = difflib.get_close_matches(name, operator_sets(), n=1, cutoff=0.4)
        known = f"did you mean {close[0]}?" if close else f"known lists: {', '.join(operator_sets())}"
        raise ProfileError(
            f"there is no list of operators {name[:80]!r}", next_step=f"{known} (operator_set)", key="operator_set"
        )
    text = (resources.files("edgefleet_profiles") / _FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    tops = yaml.safe_load(text).items()
    return {operator: OperatorLimit(max_version=None if top == "any" else int(top)) for operator, top in tops}


def operator_limits(profile: HardwareProfile) -> Mapping[str, OperatorLimit]:
    """Return the TFLite operators that a profile takes; empty = all. Raises ProfileError for an unknown list."""
    if profile.tflite_op_allowlist:
        return profile.tflite_op_allowlist
    return operator_set(profile.operator_set) if profile.operator_set else {}
