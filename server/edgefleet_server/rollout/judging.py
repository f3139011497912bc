"""Reads which gates of a spec judge a stage (`stages[].gates`), and writes it back. Pure; part of `spec`.

- Left out, all gates of the spec judge the stage; that is the normal form of it, too, since it depends on which gates there are.
- `install` must be among them: what fails on a device stops a stage in any case.
- A gate that the spec does not have judges nothing, and one that no stage is judged by has no meaning: both are refused.
Source: fleet.md §5.2; reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Sequence
from typing import Any, Final

from edgefleet_server.rollout.reading import Place
from edgefleet_server.rollout.spec_model import StageGate, StageSpec

ALL: Final = tuple(StageGate)


def parse_judges(place: Place | None, *, has_quality: bool) -> tuple[StageGate, ...]:
    """Return the gates that a stage names, all where it names none. has_quality: the spec has a quality gate."""
    if place is None or (items := place.items()) is None:
        return ALL
    before, found = len(place.errors), set[StageGate]()
    for item in items:
        gate = next((one for one in ALL if item.value == one.value), None)
        if gate is None:
            item.fail(f"expected {' or '.join(ALL)}, got {item.shown()}; other programs are asked by webhook")
        elif gate in found:
            item.fail(f"{gate.value!r} is named twice")
        elif gate is StageGate.QUALITY and not has_quality:
            item.fail("this spec has no gates.quality; write there what it asks, or leave quality out here")
        else:
            found.add(gate)
    if len(place.errors) == before and StageGate.INSTALL not in found:
        place.fail("install judges every stage: what fails on a device stops it; write [install] or [install, quality]")
    return ALL if len(place.errors) > before else tuple(one for one in ALL if one in found)


def check_judges(quality: Place, stages: Sequence[StageSpec]) -> None:
    """Note where a quality gate judges no stage."""
    if stages and not any(StageGate.QUALITY in stage.judged_by for stage in stages):
        quality.fail("no stage is judged by it; name quality in the gates of a stage, or remove it here")


def dump_judges(judges: Sequence[StageGate]) -> dict[str, Any]:
    """Return the normal form of a stage's gates: nothing where all judge it."""
    return {} if tuple(judges) == ALL else {"gates": [one.value for one in judges]}


def judges_text(judges: Sequence[StageGate]) -> str:
    """Return in words what does not judge a stage, "" where all gates do."""
    return "" if StageGate.QUALITY in judges else "without the quality gate"
