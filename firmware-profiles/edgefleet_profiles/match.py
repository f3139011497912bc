"""Choose the profile of a device from its facts. Pure.

Rules:
1. A profile fits when each key of its `match` holds: `arch` is equal, `board` is equal to the device's board name or is its
   first words (an empty key fits all), the device has at least `min_ram_mb`, and every runtime named in `runtimes` is
   installed on the device; and when its glibc is at least `glibc_min` and its Python lies in `python` (a device that does not
   say fits). Firmware says "Raspberry Pi 4 Model B Rev 1.4"; the board `raspberry-pi-4` is its first words,
   and is not those of "Raspberry Pi 400".
2. A profile whose runtime version differs from the installed one still fits: the version a bundle is proved on is checked
   again by the device's own golden test.
3. Of the fitting profiles the most specific wins: board over arch over RAM floor; then the runtime that stands first in
   `RUNTIME_ORDER`; then the name, so that the answer never depends on the order of files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgefleet_profiles.profile import HardwareProfile, version_of

RUNTIME_ORDER: Final = ("ort", "litert", "tflite", "tflm", "rknn", "hailort")
_SPELLINGS: Final[Mapping[str, str]] = {
    "onnxruntime": "ort",
    "ai-edge-litert": "litert",
    "ai_edge_litert": "litert",
    "tflite-runtime": "tflite",
    "tflite_runtime": "tflite",
}
"""Distribution names -> runtime words; anything else is taken as it is."""
_ARCHES: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "aarch64", "armv7": "armv7l", "armhf": "armv7l"}


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself. ram_mb 0 means unknown and fits only profiles without a RAM floor.

    python, glibc: versions, "" = unknown.
    """

    arch: str
    board: str = ""
    ram_mb: int = 0
    runtimes: frozenset[str] = field(default_factory=frozenset)
    python: str = ""
    glibc: str = ""

    @classmethod
    def from_mapping(cls, facts: Mapping[str, Any]) -> "DeviceFacts":
        """Return facts from an enrolment message: `{arch, board, ram_mb, runtimes: [{name, version} or name], python, glibc}`.

        Unknown keys are ignored; distribution names (`onnxruntime`) and other spellings of an architecture are understood.
        """
        arch = str(facts.get("arch") or "")
        named = (item.get("name", "") if isinstance(item, Mapping) else item for item in facts.get("runtimes") or ())
        return cls(
            arch=_ARCHES.get(arch.lower(), arch),
            board=str(facts.get("board") or ""),
            ram_mb=int(facts.get("ram_mb") or 0),
            runtimes=frozenset(_SPELLINGS.get(str(name), str(name)) for name in named),
            python=str(facts.get("python") or ""),
            glibc=str(facts.get("glibc") or ""),
        )


def board_words(name: str) -> str:
    """Return a board's name in lower case with one dash between words, as profiles write it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def fits(profile: HardwareProfile, facts: DeviceFacts) -> bool:
    """Return whether a device with these facts can take the profile (rule 1)."""
    match = profile.match
    return (
        match.arch in ("", facts.arch)
        and (not match.board or f"{board_words(facts.board)}-".startswith(f"{board_words(match.board)}-"))
        and facts.ram_mb >= match.min_ram_mb
        and set(match.runtimes) <= facts.runtimes
        and (not facts.glibc or version_of(facts.glibc) >= version_of(profile.glibc_min))
        and (not facts.python or python_fits(facts.python, profile.python))
    )


def python_fits(version: str, wanted: str) -> bool:
    """Return whether a Python version lies in a range such as `>=3.11,<3.12`; an empty range takes all.

    Numbers are compared up to the length of the wanted one for `==` and `!=`, so 3.11.7 is `==3.11`.
    """
    mine = version_of(version)
    for part in filter(None, wanted.split(",")):
        sign = part.rstrip("0123456789.")
        other = version_of(part[len(sign) :])
        same = mine[: len(other)] == other
        holds = {">=": mine >= other, "<=": mine <= other or same, ">": mine > other and not same, "<": mine < other,
                 "==": same, "!=": not same}  # fmt: skip
        if not holds[sign]:
            return False
    return True


def most_specific_of(profiles: Iterable[HardwareProfile], facts: DeviceFacts) -> HardwareProfile | None:
    """Return the best fitting profile, or None when none fits (rule 3)."""
    fitting = [profile for profile in profiles if fits(profile, facts)]
    return min(fitting, key=_rank, default=None)


def _rank(profile: HardwareProfile) -> tuple[int, int, int, int, str]:
    match = profile.match
    runtime = RUNTIME_ORDER.index(profile.runtime.name)
    return (0 if match.board else 1, 0 if match.arch else 1, -match.min_ram_mb, runtime, profile.name)
