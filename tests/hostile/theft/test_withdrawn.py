"""A withdrawn release does not come back: by the director alone, an old slot, a lost floor, a restored server, old metadata, reboots."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import write_record
from edgefleet_agent.errors import PreviousWithdrawnError
from edgefleet_agent.install.journal import Journal
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.records import DesiredOk, ModelRecord, ShutOut, SlotInfo, SlotRef, WithdrawnSlot
from edgefleet_agent.install.runner import Runner
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.verifier.withdrawals import MAX_VERSIONS, joined
from edgefleet_protocol.desired import Ref
from edgefleet_protocol.messages import ErrorClass, EventKind, Phase
from tests.agent.records import LIMITS
from tests.crash.states import PlayedIntake, PlayedServing
from tests.crash.test_damaged import BUNDLES, Telling, filled
from tests.hostile.device.forge import MODEL, MODEL_ROLE
from tests.hostile.theft.attempts import forgotten, late
from tests.hostile.theft.device import BAD, GOOD, LIVE, NOTHING_NEW, NUMBERS, Robbed, path

WITHDRAWN, FLOOR, UNKNOWN = "install.release_withdrawn", "install.security_floor", "install.target_unknown"


@pytest.fixture(name="device")
def _device(tmp_path: Path) -> Robbed:
    return Robbed(tmp_path / "device")


def restored(v: Robbed, version: str = BAD, **custom: Any) -> Ref:
    """Sign the model's role ahead as it was before: with the bundle, and without a word of its withdrawal. What a backup does."""
    v.forge.roles[MODEL_ROLE].unrecognized_fields.pop("custom", None)
    if custom:
        v.forge.roles[MODEL_ROLE].unrecognized_fields["custom"] = custom
    return v.forge.publish(version)


def test_the_director_alone_revives_nothing(device: Robbed) -> None:
    assert device.order(device.bad) == UNKNOWN
    assert device.order(device.bad, sec_floor={MODEL: 0}) == UNKNOWN
    assert device.beside(device.bad) == UNKNOWN
    assert device.order(device.good) == NOTHING_NEW


def test_bytes_that_are_in_a_slot_already_are_not_taken_for_an_install(device: Robbed) -> None:
    assert late(device) == WITHDRAWN


def test_a_slot_below_the_floor_is_no_install_either(device: Robbed) -> None:
    device.forge.withdraw(BAD, floor=NUMBERS[GOOD])
    assert device.order(device.good) == NOTHING_NEW
    assert device.order(device.live) == FLOOR
    old = msgspec.structs.replace(device.bad_wanted, target=path(LIVE))
    assert device.fetch(old) == FLOOR


def test_a_restored_server_brings_nothing_back(device: Robbed) -> None:
    assert device.order(restored(device)) == WITHDRAWN
    assert device.order(restored(device, withdrawn=["0.9.0"], sec_floor=5)) == WITHDRAWN
    assert device.floor().withdrawn == {MODEL: [BAD, "0.9.0"]}


def test_the_floor_is_never_lowered(device: Robbed) -> None:
    device.forge.withdraw(BAD, floor=NUMBERS[GOOD])
    assert device.order(device.good) == NOTHING_NEW
    device.forge.withdraw(BAD, floor=0)
    assert device.order(device.good, sec_floor={MODEL: 1}) == NOTHING_NEW
    assert device.floor().sec == {MODEL: NUMBERS[GOOD]}
    assert device.order(device.good, sec_floor={MODEL: NUMBERS[GOOD] + 1}) == FLOOR, "the document's counts as well"


@pytest.mark.parametrize("lost", [("floor.a",), ("floor.a", "floor.b"), ("tuf", "floor.a", "floor.b")])
def test_a_lost_floor_brings_nothing_back(device: Robbed, lost: tuple[str, ...]) -> None:
    device.lose(*lost)
    assert device.order(restored(device)) == WITHDRAWN
    assert late(device) == WITHDRAWN


def test_old_metadata_brings_nothing_back(device: Robbed) -> None:
    assert device.replayed(device.old, device.before) not in {"", NOTHING_NEW}
    assert forgotten(device, "tuf") not in {"", NOTHING_NEW}
    assert device.replayed(device.document(device.bad), device.before) == "trust.rollback"


def test_nobody_shuts_out_what_is_to_come(device: Robbed) -> None:
    assert device.order(device.good, sec_floor={MODEL: 2**62}) == "message.bad"
    device.forge.withdraw(BAD, floor=2**62)
    assert device.order(device.good) == "tuf.bad_custom"
    assert device.floor().sec == {}
    device.forge.withdraw(BAD)
    assert device.order(device.good) == NOTHING_NEW, "once the key is another one, all is as it was"


@pytest.mark.parametrize(
    "custom", [{"sec_floor": -1}, {"sec_floor": True}, {"withdrawn": "1.2.0"}, {"withdrawn": ["../x"]}, []]
)
def test_what_cannot_be_read_shuts_out_all_of_the_model(device: Robbed, custom: Any) -> None:
    device.forge.roles[MODEL_ROLE].unrecognized_fields["custom"] = custom
    device.forge.release(MODEL_ROLE)
    assert device.order(device.good) == "tuf.bad_custom"


def test_the_child_writes_which_slots_are_withdrawn(tmp_path: Path) -> None:
    device = Robbed(tmp_path / "device", told=False)
    assert device.facts().withdrawn == []
    assert device.order(device.good) == NOTHING_NEW
    (found,) = device.facts().withdrawn
    assert (found.target, found.sha256) == (path(BAD), device.bad.sha256)
    assert device.facts().shut_out == {MODEL: ShutOut(versions=[BAD])}


def test_a_bundle_without_a_security_version_works_until_a_floor_is_set(device: Robbed) -> None:
    del device.forge.roles[MODEL_ROLE].targets[path(GOOD)].unrecognized_fields["custom"]["sec_version"]
    device.forge.release(MODEL_ROLE)
    assert device.order(device.good) == NOTHING_NEW
    assert device.facts().wanted[0].sec_version == 0


def test_what_is_remembered_has_an_end() -> None:
    many = ShutOut(versions=[f"1.{i}" for i in range(MAX_VERSIONS + 5)])
    known = joined(ShutOut(sec_floor=7, versions=["0.1"]), many)
    assert (known.sec_floor, len(known.versions), known.versions[-1]) == (7, MAX_VERSIONS, f"1.{MAX_VERSIONS + 4}")


# ---- what agentd does with it


class Played:
    """An agent that runs B, with A in its other slot, and knows from its last document which of them is withdrawn."""

    def __init__(self, folder: Path, withdrawn: str, *, proven: bool = True, phase: Phase = Phase.COMMITTED) -> None:
        """Fill both slots. withdrawn: slots."""
        self.refs = {slot: filled(folder, slot) for slot in BUNDLES}
        active = msgspec.structs.replace(self.refs["B"], proven=proven)
        record = ModelRecord(model="digits", phase=phase, active=active, previous=self.refs["A"])
        Journal(folder).write(record)
        slots, self.told = Slots(folder), Telling()
        self.serving, intake = PlayedServing(slots), PlayedIntake(folder, {})
        parts = (Journal(folder), slots, intake, self.serving, self.told, LIMITS)
        self.runner = Runner(*parts, lambda: Room(-1, -1, 0, 0, {}), SystemClock())  # type: ignore[arg-type]
        self.serving.runner = intake.runner = self.runner
        self.known = known([self.refs[slot] for slot in withdrawn])

    def start(self) -> SlotRef | None:
        """Start as agentd does; return what serves."""
        self.runner.know_withdrawn(self.known)
        self.runner.recover()
        return self.serving.refs.get("digits")


def known(refs: list[SlotRef]) -> DesiredOk:
    """Return the last document's record: these are withdrawn."""
    found = [WithdrawnSlot(model="digits", target=ref.target, sha256=ref.sha256, reason="it was") for ref in refs]
    fields: dict[str, Any] = {"issued_s": 0, "expires_s": 0, "wanted": [], "idle_models": []}
    return DesiredOk(device="d-1", gen=1, raw_sha256="", withdrawn=found, **fields)


@pytest.mark.parametrize(("proven", "phase"), [(True, Phase.COMMITTED), (False, Phase.PROBATION)])
def test_reboots_do_not_bring_a_withdrawn_release_back(tmp_path: Path, proven: bool, phase: Phase) -> None:
    for _ in range(12):
        played = (
            Played(tmp_path, "A", proven=proven, phase=phase) if not (tmp_path / "digits").exists() else again(tmp_path)
        )
        serves = played.start()
        assert serves is None or serves.slot == "B"
        if serves is not None:
            played.runner.before_start("digits")
    assert (serves is not None) == proven, (
        "what never proved itself is not started for ever, and nothing serves instead"
    )


def again(folder: Path) -> Played:
    """Return the same agent after a reboot: its records are those on the disk."""
    record = Journal(folder).read("digits")
    assert record is not None
    played = Played(folder, "A")
    Journal(folder).write(record)
    return played


def test_without_a_withdrawal_reboots_go_back_as_ever(tmp_path: Path) -> None:
    played = Played(tmp_path, "", proven=False, phase=Phase.PROBATION)
    for _ in range(5):
        record = Journal(tmp_path).read("digits")
        assert record is not None
        played = Played(tmp_path, "")
        Journal(tmp_path).write(record)
        serves = played.start()
        played.runner.before_start("digits")
    assert serves is not None
    assert serves.slot == "A"


def test_an_operator_does_not_go_back_to_it_while_anything_else_verifies(tmp_path: Path) -> None:
    played = Played(tmp_path, "A")
    played.start()
    with pytest.raises(
        PreviousWithdrawnError, match=r"digits/A/p.bundle was withdrawn, and digits/B/p.bundle is whole"
    ):
        played.runner.go_back("digits", "because")
    assert played.serving.refs["digits"].slot == "B"


def test_from_a_slot_that_rotted_an_operator_goes_back_to_it(tmp_path: Path) -> None:
    played = Played(tmp_path, "A")
    played.start()
    (tmp_path / "digits" / "B" / "bundle").write_bytes(b"rotten!!!")
    assert played.runner.go_back("digits", "because").active == played.refs["A"]


@pytest.mark.parametrize("withdrawn", ["AB", "B"])
def test_from_a_withdrawn_release_an_operator_goes_back(tmp_path: Path, withdrawn: str) -> None:
    played = Played(tmp_path, withdrawn)
    played.start()
    assert played.runner.go_back("digits", "because").active == played.refs["A"]


def test_a_new_version_that_fails_by_its_own_fault_leaves_the_withdrawn_one_which_is_told(tmp_path: Path) -> None:
    played = Played(tmp_path, "A", proven=False, phase=Phase.PROBATION)
    played.start()
    record = played.runner.records["digits"]
    assert played.runner._probation.roll_back(record, ErrorClass.NONFINITE, "trial.nonfinite", "3 of 9 not finite")
    after = played.runner.records["digits"]
    assert after.active == played.refs["A"]
    assert after.reason == "3 of 9 not finite; it goes back to a withdrawn release, since nothing else verifies: it was"
    assert played.runner.withdrawn("digits") == "it was"


def test_a_proven_version_stays_rather_than_a_withdrawn_one(tmp_path: Path) -> None:
    played = Played(tmp_path, "A")
    played.start()
    record = played.runner.records["digits"]
    assert not played.runner._probation.roll_back(record, ErrorClass.CRASH, "trial.crash_loop", "3 crashes")
    assert played.serving.refs["digits"].slot == "B"


def test_a_rotten_slot_leaves_the_withdrawn_release(tmp_path: Path) -> None:
    played = Played(tmp_path, "A")
    (tmp_path / "digits" / "B" / "bundle").write_bytes(b"rotten!!!")
    serves = played.start()
    assert serves is not None
    assert serves.slot == "A"
    assert played.runner.withdrawn("digits") == "it was"


def test_what_serves_and_is_withdrawn_goes_on_and_is_told_once(tmp_path: Path) -> None:
    played = Played(tmp_path, "")
    played.start()
    for _ in range(2):
        played.runner.know_withdrawn(known([played.refs["B"]]))
    assert played.serving.refs["digits"].slot == "B"
    assert played.told.told == [(EventKind.WITHDRAWN, "install.release_withdrawn")]
    assert played.runner.withdrawn("digits") == "it was"


def test_slots_without_facts_are_no_bundles(tmp_path: Path) -> None:
    filled(tmp_path, "A")
    (tmp_path / "digits" / "B").mkdir()
    (tmp_path / "faces" / "A").mkdir(parents=True)
    write_record(tmp_path / "faces" / "A" / "slot.msgpack", DesiredOkLike())
    assert [model for model, info in Slots(tmp_path).filled() if isinstance(info, SlotInfo)] == ["digits"]


class DesiredOkLike(msgspec.Struct):
    """A record of another kind."""

    v: int = 1
