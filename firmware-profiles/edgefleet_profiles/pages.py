"""Write the reference pages of the profiles: `python -m edgefleet_profiles.pages docs/reference`.

One page a profile and an index, all from the YAML files, and the JSON schema; a test holds them current.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edgefleet_profiles import load, names
from edgefleet_profiles.evidence_gaps import evidence_for
from edgefleet_profiles.profile import Evidence, HardwareProfile, Thermal, profile_schema, profile_to_dict

NOTE: Final = (
    "<!-- written by `python -m edgefleet_profiles.pages docs/reference`; change the profile, not this page -->"
)
_GIVES: Final = {"serve": "a bundle", "prepare": "a prepared model", "refuse": "no bundle"}
_NOT_SHOWN: Final = ("v", "name", "title", "evidence", "backend")


def files() -> dict[str, str]:
    """Return path under `docs/reference` -> text of every generated file."""
    profiles = [load(name) for name in names()]
    made = {f"profiles/{profile.name}.md": page(profile) for profile in profiles}
    made["profiles/README.md"] = index(profiles)
    made["profile.schema.json"] = json.dumps(profile_schema(), indent=2) + "\n"
    return made


def page(profile: HardwareProfile) -> str:
    """Return the page of one profile: what it gives, its facts with their evidence."""
    rows = [
        f"| `{key}` | {_cell(value)} | {_evidence(evidence_for(profile, key) or evidence_for(profile, key.split('.')[0]))} |"
        for key, value in facts(profile)
    ]
    return "\n".join(
        [
            f"# {profile.name}",
            "",
            NOTE,
            "",
            f"{profile.title}. A publication for it gives {_GIVES[profile.backend.mode]}"
            + (f", proved in {_proved(profile)}." if profile.backend.mode != "refuse" else ".")
            + _on_the_cpu(profile),
            "",
            *_backend(profile),
            "| key | value | where it is from |",
            "| --- | --- | --- |",
            *rows,
            "",
            "[All profiles](README.md) · [what the keys mean](../profiles.md)",
            "",
        ]
    )


def _on_the_cpu(profile: HardwareProfile) -> str:
    """Return that an accelerator which a profile names is not used, "" where it names none."""
    if not profile.delegates or profile.backend.mode == "refuse":
        return ""
    return f" It runs on the CPU: the agent uses no {', '.join(profile.delegates)}."


def index(profiles: Sequence[HardwareProfile]) -> str:
    """Return the index: one row a profile."""
    rows = [
        f"| [{one.name}]({one.name}.md) | {one.arch} | {one.runtime.name} {one.runtime.version} | {_GIVES[one.backend.mode]} "
        f"| {one.title} |"
        for one in profiles
    ]
    return "\n".join(
        [
            "# Hardware profiles",
            "",
            NOTE,
            "",
            f"{len(profiles)} profiles come with edgefleet. [What the keys mean](../profiles.md).",
            "",
            "| profile | arch | runtime | gives | board |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def facts(profile: HardwareProfile) -> list[tuple[str, Any]]:
    """Return (dotted key, value) of all that the profile states, in the schema's order."""
    found: list[tuple[str, Any]] = []
    for key, value in profile_to_dict(profile).items():
        if key in _NOT_SHOWN or value in (0, "", [], {}) or (key == "thermal" and profile.thermal == Thermal()):
            continue
        if isinstance(value, dict):
            found += [
                (f"{key}.{inner}", part) for inner, part in value.items() if part not in (0, "", []) or part is False
            ]
        else:
            found.append((key, value))
    return found


def _backend(profile: HardwareProfile) -> list[str]:
    backend = profile.backend
    if backend.mode == "serve":
        return []
    lines = [
        f"**{backend.name}** ({backend.kind}, `backend.mode: {backend.mode}`): {backend.reason}. Next: {backend.next_step}.",
        "",
    ]
    if backend.mapped_operators:
        placed = ", ".join(backend.mapped_operators)
        rule = (
            "all behind the first other one stays on the CPU" if backend.partition == "prefix" else "each one by itself"
        )
        lines += [f"Operators that the compiler is told to place on the accelerator ({rule}): {placed}.", ""]
    return lines


def _proved(profile: HardwareProfile) -> str:
    return " and ".join(f"{one.name} {one.version}" for one in (profile.runtime, *profile.also_verified_on))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{one['name']} {one['version']}" if isinstance(one, dict) else str(one) for one in value)
    return str(value).replace("|", "\\|")


def _evidence(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    where = {
        "measured": f"measured on {evidence.measured_on}, {evidence.date}", "vendor": f"vendor: {evidence.document}",
        "guess": "guess",
    }[evidence.kind]  # fmt: skip
    return (where + (f" ({evidence.note})" if evidence.note else "")).replace("|", "\\|")


def main(folder: Path) -> None:
    """Write all files under `folder` and remove pages of profiles that are gone."""
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    made = files()
    for old in (folder / "profiles").glob("*.md"):
        if f"profiles/{old.name}" not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
