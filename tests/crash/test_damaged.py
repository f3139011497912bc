"""What an agent makes of what is in its slots: bytes that are not what they were, at its start, and a bundle that is wanted next."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import write_record
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.records import ModelRecord, SlotInfo, SlotRef
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.install.slots import BUNDLE_FILE, INFO_FILE, Slots
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.messages import EventKind, Phase
from tests.agent.records import LIMITS, wanted
from tests.crash.states import PlayedIntake, PlayedServing, Silent

BUNDLES = {"A": b"version 1", "B": b"version 2"}


class Telling(Silent):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[EventKind, str]] = []

    def event(self, kind: EventKind, _record: ModelRecord, *, code: str = "", reason: str = "") -> None:
        """Keep kind and code."""
        self.told.append((kind, code))


def filled(folder: Path, slot: str) -> SlotRef:
    """Fill a slot as an install does and return what names it."""
    data = BUNDLES[slot]
    target, digest = f"digits/{slot}/p.bundle", sha256_hex(data)
    where = Slots(folder).prepare("digits", slot)
    (where / BUNDLE_FILE).write_bytes(data)
    fields: dict[str, Any] = {"version": slot, "target": target, "sha256": digest}
    write_record(where / INFO_FILE, SlotInfo(model="digits", profile="p", length=len(data), runtime="ort", **fields))
    return SlotRef(slot=slot, proven=True, **fields)


@pytest.mark.parametrize(("rotten", "serves"), [("", "B"), ("A", "B"), ("B", "A"), ("AB", "")])
def test_a_rotten_slot_is_found_at_the_start_and_told(tmp_path: Path, rotten: str, serves: str) -> None:
    refs = {slot: filled(tmp_path, slot) for slot in BUNDLES}
    record = ModelRecord(model="digits", phase=Phase.COMMITTED, active=refs["B"], previous=refs["A"])
    Journal(tmp_path).write(record)
    for slot in rotten:
        (tmp_path / "digits" / slot / BUNDLE_FILE).write_bytes(BUNDLES[slot][::-1])
    slots, reporter = Slots(tmp_path), Telling()
    serving, intake = PlayedServing(slots), PlayedIntake(tmp_path, {})
    parts = (Journal(tmp_path), slots, intake, serving, reporter, LIMITS)
    runner = Runner(*parts, lambda: Room(-1, -1, 0, 0, {}), SystemClock())  # type: ignore[arg-type]
    serving.runner = intake.runner = runner
    runner.recover()
    assert [ref.slot for ref in serving.refs.values()] == list(serves)
    # at once: the next install, which may begin in the same moment, writes its own state over this one
    assert reporter.told == ([(EventKind.PHASE, "slot.damaged")] if "B" in rotten else [])


@pytest.mark.parametrize(("in_slot", "waits"), [("", True), ("another", True), ("the wanted one", False)])
def test_a_bundle_that_is_in_the_idle_slot_already_waits_for_no_turn_to_download(
    tmp_path: Path, in_slot: str, waits: bool
) -> None:
    active = filled(tmp_path, "B")
    idle = filled(tmp_path, "A") if in_slot else None
    Journal(tmp_path).write(ModelRecord(model="digits", phase=Phase.COMMITTED, active=active))
    slots = Slots(tmp_path)
    serving, intake = PlayedServing(slots), PlayedIntake(tmp_path, {})
    parts = (Journal(tmp_path), slots, intake, serving, Silent(), LIMITS)
    clock = SystemClock()
    runner = Runner(*parts, lambda: Room(-1, -1, 0, 0, {}), clock)  # type: ignore[arg-type]
    serving.runner = intake.runner = runner
    runner.recover()
    sha256 = idle.sha256 if idle is not None and in_slot == "the wanted one" else "c" * 64
    start_s = int(clock.now().timestamp()) + 300
    wish = msgspec.structs.replace(wanted("c", gen=3), sha256=sha256, start_within_s=600, start_s=start_s)
    runner._wanted = {"digits": wish}
    assert runner.waits_until_s("digits") == (start_s if waits else 0)
