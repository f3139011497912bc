"""The hardware profiles that come with edgefleet, one YAML file a board in `boards/`. Add a board = add one file.

`names()` lists them, `load(name)` reads one, `load_file(path)` reads a user's own, `most_specific(facts)` picks one for a
device, `operator_limits(profile)` says which TFLite operators it takes. The schema is
`edgefleet_profiles.profile.HardwareProfile`.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from edgefleet_profiles.match import DeviceFacts, most_specific_of
from edgefleet_profiles.operator_sets import operator_limits
from edgefleet_profiles.profile import COMPARE, HardwareProfile, ProfileError, profile_from_dict
from edgefleet_profiles.yaml_lines import line_of
from edgefleet_protocol.errors import EdgefleetError

__all__ = [
    "DeviceFacts",
    "NoProfileFitsError",
    "UnknownProfileError",
    "load",
    "load_file",
    "most_specific",
    "names",
    "operator_limits",
    "parse",
    "read_file",
]

_MAX_PROFILE_BYTES = 256 * 1024


class UnknownProfileError(EdgefleetError):
    """No profile has this name. `close` holds names that look like it."""

    code = "profile.unknown"

    def __init__(self, name: str, close: list[str]) -> None:
        hint = f"did you mean {', '.join(close)}?" if close else f"known profiles: {', '.join(names())}"
        super().__init__(f"there is no hardware profile {name[:80]!r}", next_step=f"{hint} (`edgectl profile list`)")
        self.name = name
        self.close = close


class NoProfileFitsError(EdgefleetError):
    """No profile fits a device's facts."""

    code = "profile.none_fits"


@cache
def names() -> tuple[str, ...]:
    """Return the names of the built-in profiles, sorted."""
    boards = resources.files("edgefleet_profiles") / "boards"
    return tuple(sorted(item.name.removesuffix(".yaml") for item in boards.iterdir() if item.name.endswith(".yaml")))


@cache
def load(name: str) -> HardwareProfile:
    """Return the built-in profile `name`. Raises UnknownProfileError, which lists close names."""
    if name not in names():
        raise UnknownProfileError(name, difflib.get_close_matches(name, names(), n=3, cutoff=0.5))
    text = (resources.files("edgefleet_profiles") / "boards" / f"{name}.yaml").read_text(encoding="utf-8")
    profile = parse(text, origin=f"boards/{name}.yaml")
    if profile.name != name:
        raise ProfileError(f"boards/{name}.yaml says name: {profile.name}", next_step="name the file as the profile")
    return profile


def load_file(path: Path) -> HardwareProfile:
    """Return the profile in a YAML or JSON file. Raises ProfileError when it cannot be read or is no profile."""
    return parse(read_file(path), origin=str(path))


def read_file(path: Path) -> str:
    """Return the text of a profile file. Raises ProfileError when it cannot be read or is too large."""
    try:
        if path.stat().st_size > _MAX_PROFILE_BYTES:
            raise ProfileError(f"{path} is larger than {_MAX_PROFILE_BYTES} bytes, which no profile is")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}", next_step="give a readable YAML file") from error


def parse(text: str, *, origin: str) -> HardwareProfile:
    """Return the profile in a YAML text. origin: the file's name, for messages, which also name the line where it is known.

    Raises ProfileError.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ProfileError(f"{origin} is not YAML: {error}", next_step="correct the line named above") from error
    if not isinstance(data, dict):
        raise ProfileError(f"{origin} holds no mapping", next_step=COMPARE)
    try:
        profile = profile_from_dict(data)
        operator_limits(profile)
    except ProfileError as error:
        line = line_of(text, error.key) if error.key else None
        where = origin if line is None else f"{origin}, line {line}"
        raise ProfileError(f"{where}: {error.message}", next_step=error.next_step, key=error.key) from error
    return profile


def most_specific(facts: Mapping[str, Any] | DeviceFacts) -> str:
    """Return the name of the built-in profile that fits a device best.

    facts: DeviceFacts, or an enrolment message's facts. Raises NoProfileFitsError that says what is missing.
    """
    known = facts if isinstance(facts, DeviceFacts) else DeviceFacts.from_mapping(facts)
    best = most_specific_of((load(name) for name in names()), known)
    if best is None:
        raise NoProfileFitsError(
            f"no hardware profile fits a device with arch {known.arch or 'unknown'!r}, board {known.board or 'unknown'!r} "
            f"and runtimes {', '.join(sorted(known.runtimes)) or 'none'}",
            next_step="install a runtime (onnxruntime, ai-edge-litert or tflite-runtime) on the device, or write a profile "
            "and set it with `edgectl device set-profile`",
        )
    return best.name
