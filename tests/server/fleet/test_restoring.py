"""What devices say of a restored server: kept, confirmed by devices that the server draws, or signed at an operator's word."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from edgefleet_protocol.messages import CHILD_DIED_CODE, Presence, Seen, State
from edgefleet_server.fleet.errors import NothingToRecoverError
from edgefleet_server.fleet.inventory.views import Refusal
from edgefleet_server.fleet.reported.metadata_recovery import KIND, KIND_OF_WORD
from edgefleet_server.fleet.reported.recovery_agreement import A_DAY, ASK_AGAIN, SAMPLE
from edgefleet_server.signing.errors import SigningError
from edgefleet_server.signing.fast_forward_recovery import MAX_AHEAD
from tests.server.fleet.house import House, KeyedDevice


def says(house: House, device: KeyedDevice, seen: Seen, seq: int = 1) -> None:
    """Let a device report what it has seen."""
    state = State(device=device.id, gen=1, boot_id="b", seq=seq, ts=0, models=[])
    house.fleet.receiver.take_state(device.id, msgspec.structs.replace(state, seen=seen))


def told(house: House, kind: str = KIND) -> list[dict[str, object]]:
    """Return the details of the events, oldest first."""
    return [dict(event.detail) for event in house.fleet.feed.page(limit=100, kinds=[kind])[0][::-1]]


def now_s(house: House) -> int:
    """Return the house's time."""
    return int(house.clock.now().timestamp())


def fleet_of(house: House, count: int) -> list[KeyedDevice]:
    """Enrol devices that are online."""
    made = [house.device() for _ in range(count)]
    for device in made:
        house.fleet.receiver.take_presence(device.id, Presence(on=True, conn_id="c", boot_id="b", ts=0))
    return made


def gens(house: House, devices: Sequence[KeyedDevice]) -> dict[str, int]:
    """Return the number of each device's document."""
    return {device.id: house.fleet.desired.ensure(device.id).gen for device in devices}


def asked(house: House, devices: Sequence[KeyedDevice], seconds: float = 2) -> set[str]:
    """Let the engine tick; return the devices whose document was signed again for it."""
    before = gens(house, devices)
    house.clock.turn(seconds=seconds)
    house.fleet.recovery.step(house.clock.now())
    return {device for device, gen in gens(house, devices).items() if gen > before[device]}


def files(house: House) -> dict[str, int]:
    """Return the versions of all roles."""
    return {role.name: role.version for role in house.signing.roles()}


def test_drawn_devices_that_agree_have_everything_signed_and_it_is_told(any_house: House) -> None:
    house = any_house
    devices = fleet_of(house, 4)
    first, others = devices[0], devices[1:]
    seen = Seen(version=now_s(house) + 50)
    before = files(house)
    says(house, first, seen)
    assert asked(house, devices) == {device.id for device in others}, "the first is not asked about its own word"
    assert files(house) == before
    says(house, others[0], Seen(version=now_s(house) + 20))
    assert asked(house, devices) == set()
    assert files(house) == before, "one that agrees is not enough"
    says(house, others[1], Seen(version=now_s(house) + 90))
    assert asked(house, devices) == set()
    assert all(version > seen.version for name, version in files(house).items() if name != "root")
    (event,) = told(house)
    assert event["seen"] == seen.version, "what two have seen; the third may lie"
    assert (event["device"], event["everything"], event["lost_models"]) == (first.id, True, [])
    assert event["confirmed_by"] == sorted(device.id for device in others[:2])
    after = files(house)
    says(house, first, seen, seq=2)
    house.fleet.recovery.step(house.clock.now())
    assert files(house) == after, "once is enough for all"


def test_devices_that_speak_unasked_confirm_nothing(house: House) -> None:
    devices = fleet_of(house, 4)
    before = files(house)
    for device in devices:
        house.clock.turn(seconds=1)
        says(house, device, Seen(version=now_s(house)))
    assert len(asked(house, devices)) == 3
    house.fleet.recovery.step(house.clock.now())
    assert files(house) == before
    assert [one["device"] for one in told(house, KIND_OF_WORD)] == [devices[0].id], "one event for all of them"
    for device in devices[1:3]:
        says(house, device, Seen(version=now_s(house)), seq=2)
    house.fleet.recovery.step(house.clock.now())
    assert files(house) != before


def test_a_liar_costs_few_signatures_and_signs_nothing(house: House) -> None:
    devices = fleet_of(house, SAMPLE + 3)
    liar, others = devices[0], devices[1:]
    before = files(house)
    drawn = []
    for turn in range(3):
        says(house, liar, Seen(version=2**50 + turn), seq=turn + 1)
        drawn.append(asked(house, devices, ASK_AGAIN.total_seconds()))
    assert [len(one) for one in drawn] == [SAMPLE, 2, 0], "each is asked once a day"
    assert drawn[0] | drawn[1] == {device.id for device in others}
    assert files(house) == before
    assert told(house) == []


def test_a_fleet_of_two_waits_for_an_operator(house: House) -> None:
    devices = fleet_of(house, 2)
    before = files(house)
    for device in devices:
        house.clock.turn(seconds=1)
        says(house, device, Seen(version=now_s(house)))
    house.fleet.recovery.step(house.clock.now())
    says(house, devices[1], Seen(version=now_s(house)), seq=2)
    house.fleet.recovery.step(house.clock.now())
    assert files(house) == before
    view = house.fleet.recovery.view()
    assert view.version == now_s(house)
    assert {role.name for role in view.roles} == files(house).keys() - {"root"}
    assert [word.device for word in view.words] == [device.id for device in devices]
    house.fleet.recovery.sign(view.version, [], "anna (a1)")
    assert {role.name: role.becomes for role in view.roles}.items() <= files(house).items()
    assert told(house) == [
        {"by": "anna (a1)", "seen": view.version, "everything": True, "lost_models": []},
    ]
    assert house.fleet.recovery.view().words == []


def test_an_operator_need_not_wait_for_devices(house: House) -> None:
    house.clock.turn(hours=1)
    view = house.fleet.recovery.view()
    assert (view.version, view.words) == (now_s(house) - 1, [])
    assert {role.becomes for role in view.roles} == {now_s(house)}
    assert house.fleet.recovery.sign(view.version, [], "anna (a1)").everything
    assert {version for name, version in files(house).items() if name != "root"} == {now_s(house)}
    assert house.fleet.recovery.view().roles == [], "it cannot be restored twice in a second"
    with pytest.raises(NothingToRecoverError):
        house.fleet.recovery.sign(view.version, [], "anna (a1)")


def test_models_are_made_again_by_name_and_at_an_operators_word_only(any_house: House) -> None:
    house = any_house
    devices = fleet_of(house, 4)
    lost = Seen(roles={"m.late": now_s(house), "releases": 7, "m.../x": 8})
    for device in devices[:3]:
        says(house, device, lost)
    says(house, devices[3], Seen(roles={"m.evil": 2**50}))
    assert asked(house, devices) == set()
    assert not {"m.late", "m.evil"} & files(house).keys()
    view = house.fleet.recovery.view()
    assert [(one.model, one.devices) for one in view.models] == [("evil", 1), ("late", 3)]
    assert view.models[0].named_by == [devices[3].id]
    for models in (["digits"], ["late", "digits"], [], ["../x"]):
        with pytest.raises(NothingToRecoverError):
            house.fleet.recovery.sign(0, models, "anna (a1)")
    done = house.fleet.recovery.sign(0, ["late"], "anna (a1)")
    assert (done.models, done.everything) == (["late"], False)
    assert files(house)["m.late"] > lost.roles["m.late"]
    assert "m.evil" not in files(house)
    assert house.signing.lost_models() == ["late"]
    assert [one.model for one in house.fleet.recovery.view().models] == ["evil"]


def test_no_version_goes_further_ahead_than_a_day(house: House) -> None:
    devices = fleet_of(house, 4)
    for device in devices:
        says(house, device, Seen(version=2**50))
    view = house.fleet.recovery.view()
    assert view.version == now_s(house) + MAX_AHEAD.total_seconds()
    with pytest.raises(NothingToRecoverError):
        house.fleet.recovery.sign(view.version + 1, [], "anna (a1)")
    house.fleet.recovery.step(house.clock.now())
    for device in devices:
        says(house, device, Seen(version=2**50), seq=2)
    house.fleet.recovery.step(house.clock.now())
    assert max(files(house).values()) == view.version + 1, "even when all agree"


def test_a_revoked_device_has_no_word(house: House) -> None:
    devices = fleet_of(house, 3)
    says(house, devices[0], Seen(version=now_s(house)))
    house.fleet.revocation.revoke(devices[0].id)
    assert asked(house, devices[1:]) == set()
    assert house.fleet.recovery.view().words == []


def test_words_that_came_true_and_old_questions_are_forgotten(house: House) -> None:
    devices = fleet_of(house, 4)
    for device in devices[:2]:
        says(house, device, Seen(version=now_s(house), roles={"m.late": 1}))
    asked(house, devices)
    house.clock.turn(seconds=5)
    house.signing.add_target("late/1.0.0/p.bundle", 1, "a" * 64, {})  # type: ignore[arg-type]
    house.fleet.recovery.sign(now_s(house), [], "anna (a1)")
    assert house.fleet.recovery.view().words == []
    house.clock.turn(seconds=(A_DAY + timedelta(minutes=1)).total_seconds())
    house.fleet.recovery.prune(house.clock.now())
    says(house, devices[3], Seen(version=now_s(house)))
    assert len(asked(house, devices)) == 3, "all may be asked again"


def test_a_refusal_for_it_is_shown_though_no_document_was_read(house: House) -> None:
    device = house.device()
    state = State(device=device.id, gen=1, boot_id="b", seq=1, ts=0, models=[], seen=Seen(version=7))
    said = msgspec.structs.replace(state, refused_code="tuf.rollback", refused_reason="older")
    house.fleet.receiver.take_state(device.id, said)
    assert house.fleet.reader.device(device.id).refused == Refusal(0, "tuf.rollback", "older")


def test_a_document_that_rests_after_deaths_of_the_child_is_shown_though_it_was_not_read(house: House) -> None:
    device = house.device()
    state = State(device=device.id, gen=1, boot_id="b", seq=1, ts=0, models=[])
    said = msgspec.structs.replace(state, refused_code=CHILD_DIED_CODE, refused_reason="tried again at noon")
    house.fleet.receiver.take_state(device.id, said)
    assert house.fleet.reader.device(device.id).refused == Refusal(0, CHILD_DIED_CODE, "tried again at noon")


def test_many_that_say_it_at_once_are_kept_together_and_told_once(any_house: House) -> None:
    house = any_house
    devices = fleet_of(house, 4)
    seen = {one.id: Seen(version=now_s(house), roles={f"m.late{n}": 1}) for n, one in enumerate(devices)}
    seen[devices[3].id] = Seen()  # has seen no more than is here
    commits: list[object] = []
    event.listen(house.db.engine, "commit", commits.append)
    assert house.fleet.recovery.take_all(seen) == 3
    assert house.fleet.recovery.take_all(seen) == 0, "all of it is known"
    assert len(commits) == 2
    words = {word.device: word.version for word in house.fleet.recovery.view().words}
    assert words == {one.id: seen[one.id].version for one in devices[:3]}
    (first,) = told(house, KIND_OF_WORD)
    assert first["device"] == min(one.id for one in devices[:3])


def test_a_report_without_it_signs_nothing(house: House) -> None:
    device = house.device()
    before = house.signing.metadata_file("timestamp.json")
    house.fleet.receiver.take_state(device.id, State(device=device.id, gen=1, boot_id="b", seq=1, ts=0, models=[]))
    says(house, device, Seen(), seq=2)
    house.fleet.recovery.step(house.clock.now())
    assert house.signing.metadata_file("timestamp.json") == before
    assert told(house) == told(house, KIND_OF_WORD) == []


def test_without_a_key_nothing_is_half_done_and_the_report_counts(house: House) -> None:
    devices = fleet_of(house, 3)
    ring: Any = house.signing._ring
    ring._signers.clear()
    (house.folder / "keys" / "releases.pem").unlink()
    before = house.signing.metadata_file("timestamp.json")
    says(house, devices[0], Seen(version=now_s(house)))
    assert len(asked(house, devices)) == 2
    for device in devices[1:]:
        says(house, device, Seen(version=now_s(house)), seq=2)
    with pytest.raises(SigningError):
        house.fleet.recovery.step(house.clock.now())
    assert house.fleet.reader.device(devices[0].id).reported_gen == 1
    assert house.signing.metadata_file("timestamp.json") == before
    assert told(house) == []
