"""What devices say of a restored server: heard once, bounded, told as an event."""

import msgspec

from edgefleet_protocol.messages import CHILD_DIED_CODE, Seen, State
from edgefleet_server.fleet.inventory.views import Refusal
from edgefleet_server.fleet.reported.metadata_recovery import KIND, MAX_TURNS, TURNS_WITHIN
from tests.server.fleet.house import House, KeyedDevice


def says(house: House, device: KeyedDevice, seen: Seen, seq: int = 1) -> None:
    """Let a device report what it has seen."""
    state = State(device=device.id, gen=1, boot_id="b", seq=seq, ts=0, models=[])
    house.fleet.receiver.take_state(device.id, msgspec.structs.replace(state, seen=seen))


def told(house: House) -> list[dict[str, object]]:
    """Return the details of the events, oldest first."""
    return [dict(event.detail) for event in house.fleet.feed.page(limit=100, kinds=[KIND])[0][::-1]]


def now_s(house: House) -> int:
    """Return the house's time."""
    return int(house.clock.now().timestamp())


def test_a_device_that_has_seen_more_has_everything_signed_and_it_is_told(any_house: House) -> None:
    house = any_house
    device, other = house.device(), house.device()
    seen = Seen(version=now_s(house) + 50, roles={"m.late": now_s(house)})
    says(house, device, seen)
    assert all(role.version > seen.version for role in house.signing.roles() if role.name != "root")
    says(house, device, seen, seq=2)
    says(house, other, seen)
    assert told(house) == [{"device": device.id, "seen": seen.version, "everything": True, "lost_models": ["late"]}], (
        "once is enough for all"
    )


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


def test_a_report_without_it_signs_nothing(house: House) -> None:
    device = house.device()
    before = house.signing.metadata_file("timestamp.json")
    house.fleet.receiver.take_state(device.id, State(device=device.id, gen=1, boot_id="b", seq=1, ts=0, models=[]))
    says(house, device, Seen(), seq=2)
    assert house.signing.metadata_file("timestamp.json") == before
    assert told(house) == []


def test_one_device_cannot_keep_the_server_signing(house: House) -> None:
    liar, honest = house.device(), house.device()
    for i in range(3 * MAX_TURNS):
        house.clock.turn(seconds=1)
        says(house, liar, Seen(version=now_s(house)), seq=i + 1)
    assert len(told(house)) == MAX_TURNS
    house.clock.turn(seconds=1)
    says(house, honest, Seen(version=now_s(house)))
    assert len(told(house)) == MAX_TURNS + 1
    house.clock.turn(seconds=TURNS_WITHIN.total_seconds())
    says(house, liar, Seen(version=now_s(house)), seq=1_000)
    assert len(told(house)) == MAX_TURNS + 2


def test_without_a_key_nothing_is_half_done_and_the_report_counts(house: House) -> None:
    device = house.device()
    house.signing._signer._cache.clear()
    (house.folder / "keys" / "releases.pem").unlink()
    before = house.signing.metadata_file("timestamp.json")
    says(house, device, Seen(version=now_s(house)))
    assert house.fleet.reader.device(device.id).reported_gen == 1
    assert house.signing.metadata_file("timestamp.json") == before
    assert told(house) == []
