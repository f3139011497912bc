"""The server moves: what is announced in each state, who follows, and what ends a move. Devices are the agent's own verifier."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, MetaFile  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_agent.identity.place_follower import load_announced
from edgefleet_agent.identity.store import ROOT_FILE
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_agent.verifier.errors import code_of
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import State
from edgefleet_protocol.server_places import Announcement, ServerPlace
from edgefleet_server.fleet import errors
from edgefleet_server.fleet.moves import rules
from edgefleet_server.fleet.moves.model import Followers, MoveState
from edgefleet_server.fleet.moves.rules import Wanted
from edgefleet_server.fleet.moves.service import MoveBook
from edgefleet_server.signing.named_files.place_announcer import _put
from tests.server.fleet.house import House, TurnedClock
from tests.support.holders import answer, hold_ceremony, media

NEW = Wanted(host="new.example", device_port=9443, broker_port=9883)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server with a place that its settings name."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    made = House(url, tmp_path / "server", TurnedClock(), broker_port=8883, public_host="old.example")
    made.fleet.addresses.announce_broker("old.example", 8883, "5")
    yield made
    made.db.dispose()


def book(house: House, answers: dict[str, str] | None = None) -> MoveBook:
    """Return the moves of a house whose new place answers so: by host, why not."""
    fleet = house.fleet
    return MoveBook(
        house.db,
        house.signing,
        fleet.hold,
        fleet.addresses,
        house.settings,
        house.clock,
        lambda host, _port, _ca: (answers or {}).get(host, ""),
    )


def arrive(house: House) -> None:
    """The server starts with the settings of the new place."""
    house.fleet.addresses._host, house.fleet.addresses._port = "new.example", 9443
    house.fleet.addresses.announce_broker("new.example", 9883, "5")


class Verifier:
    """The verifier of one device."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.state, self.id = house, folder, house.device().id
        self.forged: dict[str, bytes] = {}
        (folder / "identity").mkdir(parents=True)
        (folder / "identity" / ROOT_FILE).write_bytes(house.signing.root_chain()[0])

    def take_hold(self, raw: bytes | None = None) -> Announcement | None:
        """Verify the newest hold; return what is announced then."""
        task = Task(
            kind="hold",
            state_dir=str(self.state),
            device=self.id,
            repo_head=b"",
            meta_timeout_s=1,
            block_timeout_s=1,
            no_progress_s=1,
        )
        data = raw or self.house.fleet.hold.envelope()
        assert data is not None
        Documents(task, self.source, self.house.clock).hold(data)
        return load_announced(self.state / "identity")

    def code_of(self, files: dict[str, bytes]) -> str:
        """Verify a new hold, with these files by role in the place of the server's; return the code of the refusal."""
        self.house.fleet.hold.sign_again()
        self.forged = files
        try:
            self.take_hold()
        except EdgefleetError as error:
            return code_of(error)
        finally:
            self.forged = {}
        return ""

    def source(self, name: str, _most: int) -> bytes | None:
        """Return a file of metadata by its name."""
        role = name.removesuffix(".json").split(".")[-1]
        return self.forged.get(role) or self.house.signing.metadata_file(name)


def say(house: House, device: DeviceId, told: Any, used: Any, seq: int) -> None:
    """Let a device report how far it has followed."""
    state = State(device=device, gen=0, boot_id="b", seq=seq, ts=0, facts={"place": [told, used]}, models=[])
    house.fleet.receiver.take_state(device, state)


def test_a_move_from_its_plan_to_its_end(house: House, tmp_path: Path) -> None:
    moves, device = book(house), Verifier(house, tmp_path / "device")
    with pytest.raises(errors.MoveUnknownError):
        moves.move()
    planned = moves.plan(NEW, "anna")
    assert (planned.state, planned.number, planned.after.url) == ("planned", 0, "https://new.example:9443")
    assert [one.host for one in moves.places()] == ["new.example", "old.example"]
    assert house.fleet.hold.envelope() is None
    with pytest.raises(errors.MoveUnderWayError):
        moves.plan(NEW, "anna")
    with pytest.raises(errors.BadMoveError):
        moves.finish(leave_behind=0, spread_s=1)
    started = moves.start(ahead=False, spread_s=60)
    assert moves.step()
    assert not moves.step()
    found = device.take_hold()
    assert found is not None
    assert (found.number, found.spread_s) == (started.number, 60)
    assert [one.url for one in found.places] == ["https://new.example:9443", "https://old.example:8443"]
    assert found.cas == [house.signing.ca_pem().decode()]
    say(house, device.id, started.number, 0, 1)
    assert moves.move().followers == Followers(1, 1, 0, [device.id])
    with pytest.raises(errors.MoveUnfinishedError, match="1 of 1 devices"):
        moves.finish(leave_behind=0, spread_s=1)
    say(house, device.id, started.number, started.number, 2)
    with pytest.raises(errors.MoveUnfinishedError, match="the settings"):
        moves.finish(leave_behind=0, spread_s=1)
    arrive(house)
    ended = moves.finish(leave_behind=0, spread_s=1)
    assert (ended.state, moves.step(), moves.places()) == ("finished", True, [])
    found = device.take_hold()
    assert found is not None
    assert (found.number, [one.host for one in found.places]) == (ended.number, ["new.example"])
    assert ended.number > started.number
    with pytest.raises(errors.BadMoveError):
        moves.finish(leave_behind=0, spread_s=1)
    assert moves.plan(Wanted(device_port=7443), "anna").before.url == "https://new.example:9443"


def test_devices_are_called_back_until_the_move_has_ended(house: House, tmp_path: Path) -> None:
    moves, device = book(house), Verifier(house, tmp_path / "device")
    moves.plan(NEW, "anna")
    number = moves.start(ahead=False, spread_s=1).number
    say(house, device.id, number, number, 1)
    back = moves.undo(spread_s=1)
    assert back.number > number
    moves.step()
    found = device.take_hold()
    assert found is not None
    assert [one.host for one in found.places] == ["old.example", "new.example"]
    with pytest.raises(errors.MoveUnfinishedError):
        moves.finish(leave_behind=0, spread_s=1)
    assert moves.finish(leave_behind=1, spread_s=1).state == "undone"


def test_a_place_where_nothing_answers_is_announced_only_when_that_is_said(house: House) -> None:
    moves = book(house, {"new.example": "new.example:9443 does not answer"})
    moves.plan(NEW, "anna")
    with pytest.raises(errors.PlaceUnreachableError):
        moves.start(ahead=False, spread_s=1)
    assert house.signing.places.announced() is None
    assert moves.start(ahead=True, spread_s=1).in_force
    assert moves.undo(spread_s=1).state == "undoing"


def lying(house: House, keys: list[str]) -> dict[str, bytes]:
    """Return files by role that announce a thief's place: targets, snapshot and timestamp of a next version, signed by these roles."""
    signing = house.signing
    signers = [signing._ring.signer(signing.role(name).keys[0]) for name in keys]
    files: dict[str, bytes] = {}
    parsed = {name: Metadata[Any].from_bytes(_newest(house, name)) for name in ("targets", "snapshot", "timestamp")}
    targets, snapshot, timestamp = (parsed[name].signed for name in ("targets", "snapshot", "timestamp"))
    _put(
        targets,
        {
            "number": 2**40,
            "places": [{"url": "https://thief.example", "host": "thief.example", "port": 8883}],
            "cas": [signing.ca_pem().decode()],
        },
    )
    for signed in (targets, snapshot, timestamp):
        signed.version += 1
    snapshot.meta["targets.json"] = MetaFile(targets.version)
    for name in ("targets", "snapshot", "timestamp"):
        if name == "timestamp":
            digest = {"sha256": str(sha256_hex(files["snapshot"]))}
            timestamp.snapshot_meta = MetaFile(snapshot.version, len(files["snapshot"]), digest)
        parsed[name].signatures.clear()
        for signer in signers:
            parsed[name].sign(signer, append=True)  # type: ignore[arg-type]
        files[name] = parsed[name].to_bytes()
    return files


def _newest(house: House, role: str) -> bytes:
    name = "timestamp.json" if role == "timestamp" else f"{house.signing.role(role).version}.{role}.json"
    data = house.signing.metadata_file(name)
    assert data is not None
    return data


@pytest.mark.parametrize(
    "keys",
    [[], ["director"], ["releases"], ["director", "releases", "snapshot", "timestamp"]],
    ids=["broker", "director", "releases", "all but targets"],
)
def test_who_has_not_the_keys_of_targets_announces_nothing(house: House, tmp_path: Path, keys: list[str]) -> None:
    device = Verifier(house, tmp_path / "device")
    house.fleet.hold.sign_again()
    assert device.take_hold() is None
    assert device.code_of(lying(house, keys)) == "tuf.unsigned"
    assert load_announced(tmp_path / "device" / "identity") is None
    if "snapshot" not in keys:  # who has these can keep devices from what is new, and no more
        assert device.code_of({}) == ""


def test_with_the_keys_of_targets_the_same_words_count(house: House, tmp_path: Path) -> None:
    """The attempts above fail for their keys, and for nothing else."""
    device = Verifier(house, tmp_path / "device")
    assert device.code_of(lying(house, ["targets", "snapshot", "timestamp"])) == ""
    found = load_announced(tmp_path / "device" / "identity")
    assert found is not None
    assert found.places[0].host == "thief.example"


def test_after_a_ceremony_a_move_waits_for_the_holders(house: House, tmp_path: Path) -> None:
    moves, holders = book(house), media(tmp_path, threshold=1)
    hold_ceremony(house.signing, holders, "anna")
    moves.plan(NEW, "anna")
    started = moves.start(ahead=False, spread_s=1)
    assert (started.in_force, moves.step()) == (False, False)
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    assert started.signing_request == asked.id
    assert asked.id in started.next
    assert any("fleet/places.json" in line or "new.example" in line for line in asked.changes), asked.changes
    house.signing.ceremony.take(asked.id, [answer(asked, holders["ben"])])
    assert moves.move().in_force
    assert moves.step()
    found = Verifier(house, tmp_path / "device").take_hold()
    assert found is not None
    assert found.number == started.number


def test_a_plan_is_dropped_without_a_word_to_devices(house: House) -> None:
    moves = book(house)
    moves.plan(NEW, "anna")
    assert moves.undo(spread_s=1).state == "dropped"
    assert (house.signing.places.announced(), moves.places(), moves.step()) == (None, [], False)
    for host in (
        "a/b",
        "é",
        "new.example:9443",
        "a..b",
        "-a",
        "*.example",
        "0.0.0.0",
        "::",
        "fe80::1%eth0",
        "1.2.3",
        "a" * 250,
    ):
        with pytest.raises(errors.BadMoveError, match="no host name"):
            moves.plan(Wanted(host=host), "anna")
        with pytest.raises(errors.BadMoveError, match="no host name"):
            moves.plan(Wanted(broker_host=host), "anna")
    with pytest.raises(errors.BadMoveError, match="already"):
        moves.plan(Wanted(), "anna")
    api = house.settings.api_port
    for wanted in (
        Wanted(device_port=8883),
        Wanted(broker_port=8443),
        Wanted(device_port=api),
        Wanted(broker_port=api),
    ):
        with pytest.raises(errors.BadMoveError, match="something else"):
            moves.plan(wanted, "anna")


def test_a_device_that_was_away_until_the_old_place_was_gone_comes_back_where_a_plan_opens_it_again(
    house: House, tmp_path: Path
) -> None:
    moves = book(house)
    moves.plan(NEW, "anna")
    moves.start(ahead=False, spread_s=1)
    arrive(house)
    away = Verifier(house, tmp_path / "away")
    ended = moves.finish(leave_behind=1, spread_s=1)
    assert (moves.step(), moves.places()) == (True, [])
    house.clock.turn(seconds=1)
    moves.plan(Wanted(host="old.example", device_port=8443, broker_port=8883), "anna")
    assert {one.host for one in moves.places()} == {"new.example", "old.example"}
    found = away.take_hold()
    assert found is not None
    assert (found.number, [one.host for one in found.places]) == (ended.number, ["new.example"])
    say(house, away.id, found.number, found.number, 1)
    planned, before = moves.moves()
    assert (planned.followers.told, planned.followers.followed) == (0, 0)
    assert before.followers.followed == 1
    assert moves.undo(spread_s=1).state == "dropped"


def test_nothing_is_locked_while_the_new_place_is_tried(house: House) -> None:
    moves = book(house)
    moves.plan(NEW, "anna")
    written: list[bool] = []

    def tries(*_asked: object) -> str:
        def write() -> None:
            house.db.check_writing()
            written.append(True)

        other = threading.Thread(target=write)
        other.start()
        other.join(60)
        return ""

    moves._why_not = tries
    assert moves.start(ahead=False, spread_s=1).in_force
    assert written == [True, True]


@pytest.mark.parametrize("said", [[1], [1, "2"], [-1, 0], [True, 1], "x", {"a": 1}, [2**63, 1], None])
def test_what_a_device_says_in_another_form_is_no_step(house: House, said: Any) -> None:
    device = house.device().id
    state = State(device=device, gen=0, boot_id="b", seq=1, ts=0, facts={"place": said}, models=[])
    house.fleet.receiver.take_state(device, state)
    moves = book(house)
    moves.plan(NEW, "anna")
    number = moves.start(ahead=True, spread_s=1).number
    assert moves.move().followers == Followers(1, 0, 0, [device])
    assert number > 1


OLD_PLACE = ServerPlace("https://old.example:8443", "old.example", 8883)


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        (Wanted(device_port=1), ServerPlace("https://old.example:1", "old.example", 8883)),
        (Wanted(host="::1"), ServerPlace("https://[::1]:8443", "::1", 8883)),
        (Wanted(host="n", has_broker=False), ServerPlace("https://n:8443", "old.example", 8883)),
        (Wanted(broker_host="b", broker_port=2), ServerPlace("https://old.example:8443", "b", 2)),
    ],
)
def test_what_is_not_named_stays(wanted: Wanted, place: ServerPlace) -> None:
    assert rules.moved(OLD_PLACE, wanted) == place
    assert rules.ports_besides([place, OLD_PLACE], 8443, 8883)[0] == ([1] if place.url[-2:] == ":1" else [])


def test_each_state_says_what_to_do_next() -> None:
    some, all_ = Followers(2, 2, 1), Followers(2, 2, 2)
    said = {
        rules.next_step(state, followers, in_force=in_force, request=request, is_at_home=is_at_home)
        for state in MoveState
        for followers in (some, all_)
        for in_force in (True, False)
        for request in ("", "r-1")
        for is_at_home in (True, False)
    }
    assert len(said) >= 8
    assert rules.next_step(MoveState.STARTED, some, in_force=True, request="", is_at_home=True).startswith(
        "wait: 1 of 2"
    )
