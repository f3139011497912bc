"""The hardware profiles that come with edgefleet, one YAML file a board in `boards/`. Add a board = add one file.

`names()` lists them, `load(name)` reads one, `load_file(path)` reads a user's own, `most_specific(facts)` picks one for a
device. The schema is `edgefleet_protocol.profile.HardwareProfile`.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from edgefleet_profiles.match import DeviceFacts, most_specific_of
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.profile import HardwareProfile, ProfileError, profile_from_dict

__all__ = [
    "DeviceFacts",
    "NoProfileFitsError",
    "UnknownProfileError",
    "load",
    "load_file",
    "most_specific",
    "names",
    "parse",
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
    try:
        if path.stat().st_size > _MAX_PROFILE_BYTES:
            raise ProfileError(f"{path} is larger than {_MAX_PROFILE_BYTES} bytes, which no profile is")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}", next_step="give a readable YAML file") from error
    return parse(text, origin=str(path))


def parse(text: str, *, origin: str) -> HardwareProfile:
    """Return the profile in a YAML text. origin: the file's name, for messages. Raises ProfileError."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ProfileError(f"{origin} is not YAML: {error}", next_step="correct the line named above") from error
    if not isinstance(data, dict):
        raise ProfileError(
            f"{origin} holds no mapping", next_step="compare with `edgectl profile show generic-x86_64-ort -o yaml`"
        )
    try:
        return profile_from_dict(data)
    except ProfileError as error:
        raise ProfileError(f"{origin}: {error.message}", next_step=error.next_step) from error


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
