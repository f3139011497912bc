"""What a profile file leaves unsaid: facts without evidence and evidence without what it needs. Pure.

A profile with findings is a profile all the same; `edgectl profile validate` shows them, and those that edgefleet ships have
none. Source of the rule: ADR 0018.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from edgefleet_profiles.profile import RETIRED, Evidence, HardwareProfile

NEEDS_EVIDENCE: Final = (
    "cpu", "features", "runtime", "ram_mb", "free_ram_budget_mb", "storage_mb", "glibc_min", "python", "delegates",
    "backend", "opset_max", "ir_max", "operator_set", "tflite_op_allowlist", "tensor_dtypes", "rank_max", "quant",
    "max_model_bytes", "max_arena_bytes", "thermal", "match.board",
)  # fmt: skip
"""Keys that state facts about a board. The others name the profile or are a choice of its author."""


@dataclass(frozen=True)
class Finding:
    """One thing to correct. key: dotted path in the file; next_step: what to write."""

    key: str
    message: str
    next_step: str


def findings(profile: HardwareProfile, raw: Mapping[str, Any] | None = None) -> list[Finding]:
    """Return what is missing in a profile. raw: the file as it was parsed, in which retired keys can be seen."""
    found = [Finding(key, "is no longer read", "remove it") for key in RETIRED if key in (raw or {})]
    known = _paths(HardwareProfile)
    covered: set[str] = set()
    for key, evidence in profile.evidence.items():
        covered |= {key, *evidence.covers}
        found += _incomplete(key, evidence)
        for stranger in sorted({key, *evidence.covers} - known):
            message = f"is evidence for {stranger!r}, which is no key of a profile"
            found.append(Finding(f"evidence.{key}", message, "name the key that it is about"))
    for key in NEEDS_EVIDENCE:
        if key not in covered and _is_stated(profile, key):
            message = "is stated without evidence"
            found.append(Finding(key, message, f"write evidence.{key} with kind measured, vendor or guess"))
    return found


def evidence_for(profile: HardwareProfile, key: str) -> Evidence | None:
    """Return what stands for a key: its own evidence, or one that covers it."""
    own = profile.evidence.get(key)
    return own or next((evidence for evidence in profile.evidence.values() if key in evidence.covers), None)


def _incomplete(key: str, evidence: Evidence) -> list[Finding]:
    needed = {"measured": ("measured_on", "date"), "vendor": ("document",), "guess": ("note",)}[evidence.kind]
    return [
        Finding(f"evidence.{key}", f"is {evidence.kind} and has no {name}", f"write {name}")
        for name in needed
        if not getattr(evidence, name)
    ]


def _is_stated(profile: HardwareProfile, key: str) -> bool:
    """Return whether a key has another value than it has by default."""
    value: Any = profile
    default: Any = None
    for part in key.split("."):
        defaults = {field.name: field for field in msgspec.structs.fields(type(value))}
        field = defaults[part]
        default = (
            field.default_factory()
            if field.default is msgspec.NODEFAULT and callable(field.default_factory)
            else field.default
        )
        value = getattr(value, part)
    return bool(value != default)


def _paths(kind: type[msgspec.Struct], before: str = "") -> set[str]:
    """Return the dotted paths of all keys of a struct and of the structs in it."""
    found: set[str] = set()
    for field in msgspec.structs.fields(kind):
        path = f"{before}{field.name}"
        found.add(path)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= _paths(field.type, f"{path}.")
    return found
