"""How a device follows its server to another place: the pure rules at random, kill points, and announcements that lie."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.core.durable import encode_record, read_record, write_file, write_record
from edgefleet_agent.identity import place_follower
from edgefleet_agent.identity.place_follower import adopt, at_place, due_s, load_announced, note_announced, place_of
from edgefleet_agent.identity.places import REST_MAX_S, Following
from edgefleet_agent.identity.store import CA_FILE, RECORD_FILE, Identity, load_identity
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.server_places import Announcement, ServerPlace, parse_announcement

OLD = ServerPlace("https://old.example:8443", "old.example", 8883)
NEW = ServerPlace("https://new.example:9443", "new.example", 9883)
OLD_CA = "-----BEGIN CERTIFICATE-----\nold\n-----END CERTIFICATE-----\n"
NEW_CA = "-----BEGIN CERTIFICATE-----\nnew\n-----END CERTIFICATE-----\n"
IDENTITY = Identity(
    device="d-1",
    tenant="t",
    profile="p",
    broker_host=OLD.host,
    broker_port=OLD.port,
    mqtt="5",
    url=OLD.url,
    enrolled_at="",
)


def move(number: int = 7, *places: ServerPlace, **more: Any) -> Announcement:
    return Announcement(number=number, places=list(places or (NEW, OLD)), cas=[OLD_CA, NEW_CA], **more)


STEPS = st.sampled_from(["hear", "older", "first", "last", "proved", "lost", "rested"])


@given(st.lists(STEPS, max_size=40))
def test_a_device_never_forgets_the_place_that_served_it_and_adopts_only_what_served_a_session(
    steps: list[str],
) -> None:
    now, current, heard = Following(), OLD, 0
    for step in steps:
        before = now
        choices = now.choices(current)
        match step:
            case "hear":
                heard += 1
                now = now.hear(move(heard, *([NEW, OLD] if heard % 2 else [OLD, NEW])))
            case "older":
                now = now.hear(move(max(1, heard - 1)))
                assert now == before or not heard
                heard = now.told
            case "first" | "last":
                now = now.connected(choices[0 if step == "first" else -1].number)
            case "proved":
                was_on_trial = now.on_trial
                now = now.proved()
                assert was_on_trial or now == before
                if was_on_trial and now.announced is not None:
                    current = now.announced.places[0]
            case "lost":
                now = now.lost()
            case _:
                now = now.rested()
        assert now.told == heard >= before.told
        assert now.adopted == before.adopted or (step == "proved" and before.on_trial and now.adopted == now.told)
        places = [one.place for one in now.choices(current)]
        assert current in places
        own = next(one for one in now.choices(current) if one.place == current)
        assert own.number in {now.adopted, now.told} or own.cas
        assert not now.is_resting or now.choices(current)[-1].number == now.told
        assert now.rest_s <= REST_MAX_S


def test_a_place_that_takes_devices_and_serves_nothing_rests_longer_and_longer() -> None:
    now = Following().hear(move())
    rests = []
    for _ in range(8):
        first = now.rested().choices(OLD)[0]
        assert first.place == NEW
        now = now.rested().connected(first.number).lost()
        assert [one.place for one in now.choices(OLD)] == [OLD, NEW]
        rests.append(now.rest_s)
    assert rests[:2] == [3_600.0, 7_200.0]
    assert rests[-1] == REST_MAX_S


def test_going_back_is_a_move_like_any_other() -> None:
    there = Following().hear(move(1, NEW, OLD)).connected(1).proved()
    back = there.hear(move(2, OLD, NEW))
    assert [one.place for one in back.choices(NEW)] == [OLD, NEW]
    assert back.connected(2).proved().adopted == 2


def test_a_repository_that_was_put_back_takes_no_device_back() -> None:
    assert Following(None, adopted=7).hear(move(6)).announced is None
    assert Following(None, adopted=7).hear(move(7)).told == 7


def test_a_device_that_is_served_by_the_place_it_adopted_is_not_resting() -> None:
    away = Following(None, 7).hear(move()).connected(0)
    assert away.is_resting
    assert not away.connected(7).is_resting


class Clockwork:
    """A loop whose timers are only counted."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def call_later(self, delay_s: float, _call: object) -> "Clockwork":
        self.asked.append(delay_s)
        return self

    def cancel(self) -> None:
        """Nothing."""


def test_a_connection_that_is_often_lost_does_not_put_the_new_place_off_for_ever(tmp_path: Path) -> None:
    note_announced(tmp_path, move())
    loop = Clockwork()
    follower = place_follower.PlaceFollower(cast("Any", loop), tmp_path, 0, lambda _why: None)
    for _ in range(5):
        follower.connected(0)
        follower.lost()
    assert loop.asked == [3_600.0]
    follower.connected(7)
    follower.lost()
    assert loop.asked[1:] == [place_follower.PROVE_S, 7_200.0]


def test_a_renewed_identity_is_tried_with_the_broker_of_the_renewal(tmp_path: Path) -> None:
    follower = place_follower.PlaceFollower(cast("Any", Clockwork()), tmp_path, 0, lambda _why: None)
    renewed = msgspec.structs.replace(IDENTITY, broker_port=1)
    ways = follower.ways([(renewed, tmp_path / "next"), (IDENTITY, tmp_path)])
    assert [one.identity.broker_port for one in ways] == [1, OLD.port]


def test_a_document_of_an_earlier_connection_proves_no_place(tmp_path: Path) -> None:
    folder = made(tmp_path / "identity")
    note_announced(folder, move())
    follower = place_follower.PlaceFollower(cast("Any", Clockwork()), folder, 0, lambda _why: None)
    follower.came.add("hold")
    follower.connected(7)
    assert not follower.proved("hold")
    assert load_identity(folder).place == 0
    follower.came.add("hold")
    assert follower.proved("hold")
    assert load_identity(folder).place == 7


def made(folder: Path) -> Path:
    for one in (folder, folder / "next"):
        one.mkdir(parents=True)
        write_record(one / RECORD_FILE, IDENTITY)
        (one / CA_FILE).write_text(OLD_CA)
    return folder


@pytest.mark.parametrize("left", range(5))
def test_killed_while_it_adopts_a_device_reaches_both_places_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    folder, writes = made(tmp_path / "identity"), [0]
    note_announced(folder, move())

    def dies(path: Path, data: bytes, **more: Any) -> None:
        writes[0] += 1
        if writes[0] > left:
            raise KeyboardInterrupt
        write_file(path, data, **more)

    monkeypatch.setattr(place_follower, "write_file", dies)
    monkeypatch.setattr(place_follower, "write_record", lambda path, one: dies(path, encode_record(one)))
    try:
        adopt(folder, move())
    except KeyboardInterrupt:
        assert left < 4
    known = load_identity(folder)
    now = Following(None, known.place).hear(load_announced(folder))
    reached = [(one.place, one.cas or (folder / CA_FILE).read_text()) for one in now.choices(place_of(known))]
    for place in (OLD, NEW):
        assert any(there == place and OLD_CA in cas for there, cas in reached)
    assert (known.place, place_of(known)) in {(0, OLD), (7, NEW)}
    renewed = read_record(Identity, folder / "next" / RECORD_FILE)
    assert renewed is not None
    assert renewed.place >= known.place, "a take-over would bring the old address back"


def test_an_older_announcement_is_not_written_over_a_newer_one(tmp_path: Path) -> None:
    note_announced(tmp_path, move(9))
    note_announced(tmp_path, move(8, OLD))
    note_announced(tmp_path, None)
    found = load_announced(tmp_path)
    assert found is not None
    assert (found.number, found.places[0]) == (9, NEW)
    (tmp_path / "places.msgpack").write_bytes(b"torn")
    assert load_announced(tmp_path) is None


def test_certificates_are_renewed_early_where_it_is_announced_each_at_its_own_moment() -> None:
    young = msgspec.structs.replace(IDENTITY, cert_from_s=1_000, cert_until_s=91_000)
    assert due_s(young, None) == 61_000
    assert due_s(young, move(renew_from_s=1_000)) == 61_000
    moments = {
        due_s(msgspec.structs.replace(young, device=f"d-{at}"), move(renew_from_s=2_000, spread_s=600))
        for at in range(200)
    }
    assert all(2_000 <= one <= 2_600 for one in moments)
    assert len(moments) > 100
    assert at_place(IDENTITY, NEW, 3).broker_port == NEW.port


GOOD: dict[str, Any] = {"number": 1, "places": [{"url": OLD.url, "host": "h", "port": 1}], "cas": [OLD_CA]}


@pytest.mark.parametrize(
    "change",
    [
        {"number": 0},
        {"number": "1"},
        {"number": 2**63},
        {"places": []},
        {"places": GOOD["places"] * 5},
        {"places": [{"url": "http://h", "host": "h", "port": 1}]},
        {"places": [{"url": "https://", "host": "h", "port": 1}]},
        {"places": [{"url": "https://h:70000", "host": "h", "port": 1}]},
        {"places": [{"url": OLD.url, "host": "h h", "port": 1}]},
        {"places": [{"url": OLD.url, "host": "h", "port": 65_536}]},
        {"places": [{"url": OLD.url, "host": "h", "port": 1, "mqtt": "4"}]},
        {"cas": []},
        {"cas": ["x"]},
        {"cas": [OLD_CA + NEW_CA]},
        {"cas": [OLD_CA] * 3},
        {"spread_s": -1},
    ],
)
def test_what_has_another_form_announces_nothing(change: dict[str, Any]) -> None:
    assert parse_announcement(GOOD).number == 1
    with pytest.raises(BadMessageError):
        parse_announcement(GOOD | change)
    with pytest.raises(BadMessageError):
        parse_announcement(None)
