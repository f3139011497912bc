"""The device CA is rotated: what is announced and trusted in each state, who follows, and what ends it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlmodel import Session

from edgefleet_agent.identity.place_follower import due_s
from edgefleet_agent.identity.store import Identity
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Presence
from edgefleet_server.fleet import errors
from edgefleet_server.fleet.ca_rotation import rules, service
from edgefleet_server.fleet.ca_rotation.model import UNDER_WAY, CaFollowers, CaRotationState
from edgefleet_server.fleet.enrolment.model import DeviceIdentity
from edgefleet_server.fleet.moves.rules import Wanted
from edgefleet_server.fleet.store import newest_ca_rotation
from edgefleet_server.fleet.tables import FleetCaRotation
from edgefleet_server.signing.authority import CA_KEY_FILE, NEXT_CERT_FILE, NEXT_KEY_FILE, DeviceAuthority
from edgefleet_server.signing.errors import RequestWaitingError, StatementRefusedError
from edgefleet_server.signing.keys.own_certificates import hosts_in, is_issued_by
from edgefleet_server.signing.keys.trusted_cas import fingerprint_of
from edgefleet_server.signing.signer import messages as m
from tests.server.fleet.house import House, KeyedDevice, TurnedClock
from tests.server.fleet.test_moves import Verifier, say
from tests.server.signing.test_signing_process import apart_of
from tests.support.holders import answer, hold_ceremony, media

EMPTY = CaFollowers(0, 0, 0, 0, 0)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server whose settings name its ports."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    made = House(url, tmp_path / "server", TurnedClock(), broker_port=8883, public_host="old.example")
    made.fleet.addresses.announce_broker("old.example", 8883, "5")
    yield made
    made.db.dispose()


class Member:
    """A device that renews as its agent does, and connects with what it got."""

    def __init__(self, house: House) -> None:
        self.house, self.device, self.seq = house, house.device(), 0
        self.cert = x509.load_pem_x509_certificate(self.device.enrolment.cert.encode())
        self.connect()

    def hear(self) -> None:
        """Verify what is announced, and say so."""
        announced = self.house.signing.places.announced()
        assert announced is not None
        self.seq += 1
        say(self.house, self.device.id, announced.number, announced.number, self.seq)

    def renew(self) -> None:
        """Ask for a certificate, by a token that the key signs."""
        caller = self.house.fleet.authenticator.authenticate(self.device.token(self.house.clock.now()), renews=True)
        assert isinstance(caller, DeviceIdentity)
        fresh = KeyedDevice()
        found = self.house.fleet.enrolment.renew(caller, fresh.csr()).cert
        fresh.enrolment, self.device = self.device.enrolment, fresh
        self.cert = x509.load_pem_x509_certificate(found.encode())

    def connect(self) -> None:
        """Be online with the certificate."""
        serial = f"{self.cert.serial_number:x}"
        here = Presence(on=True, conn_id=serial, boot_id="b", ts=1, cert=serial)
        self.house.fleet.receiver.take_presence(DeviceId(self.device.id), here)

    @property
    def is_due(self) -> bool:
        """Whether its agent would renew by now."""
        begun, until = self.cert.not_valid_before_utc.timestamp(), self.cert.not_valid_after_utc.timestamp()
        known = Identity(
            device="d", tenant="t", profile="p", broker_host="h", broker_port=1, mqtt="5", url="u", enrolled_at="",
            cert_from_s=int(begun), cert_until_s=int(until),
        )  # fmt: skip
        announced = self.house.signing.places.announced()
        return bool(due_s(known, announced) <= self.house.clock.now().timestamp())


def is_of(member: Member, pem: bytes) -> bool:
    """Return whether a CA issued the certificate of a device."""
    return member.cert.issuer == x509.load_pem_x509_certificate(pem).subject


def settle(house: House) -> None:
    """Let the server do what is left, as its engine and its broker's keeper do."""
    while house.fleet.ca_rotations.step():
        house.signing.renew_own("main")


def test_a_rotation_from_its_start_to_its_end(house: House, tmp_path: Path) -> None:
    rotations, cas, server_id = house.fleet.ca_rotations, house.signing.cas, house.fleet.addresses.server_id
    member, device = Member(house), Verifier(house, tmp_path / "device")
    old = cas.current()
    house.clock.turn(days=2)
    assert not member.is_due
    with pytest.raises(errors.CaRotationUnknownError):
        rotations.finish(leave_behind=0, reason="")
    started = rotations.start(spread_s=0, reason="it is old", by="anna")
    new = cas.following()
    assert new is not None
    assert (started.state, started.in_force, started.settled) == ("started", True, True)
    assert (started.old_ca, started.new_ca) == (fingerprint_of(old), fingerprint_of(new))
    settle(house)
    announced = device.take_hold()
    assert announced is not None
    assert [pem.encode() for pem in announced.cas] == [new, old]
    # who has not heard would refuse a certificate of a CA that it does not know
    assert member.is_due
    house.clock.turn(seconds=1)
    member.renew()
    assert is_of(member, old)
    member.hear()
    member.renew()
    assert is_of(member, new)
    assert not member.is_due, "asked once"
    with pytest.raises(errors.CaRotationUnfinishedError, match="1 of 1 devices"):
        rotations.finish(leave_behind=0, reason="")
    member.connect()
    house.fleet.revocation.revoke(device.id)
    found = rotations.rotations()[0].followers
    assert (found.devices, found.told, found.followed, found.online_followed, found.behind) == (1, 1, 1, 1, [])
    assert rotations.finish(leave_behind=0, reason="").state == "finished"
    settle(house)
    assert (cas.current(), cas.following()) == (new, None)
    keys = house.folder / "keys"
    assert not (keys / NEXT_KEY_FILE).exists()
    assert not (keys / NEXT_CERT_FILE).exists()
    assert is_issued_by(house.signing.server_cert_file, new)
    assert "old.example" in hosts_in(house.signing.server_cert_file) or "localhost" in hosts_in(
        house.signing.server_cert_file
    )
    last = house.signing.places.announced()
    assert last is not None
    assert [pem.encode() for pem in last.cas] == [new]
    assert house.fleet.addresses.server_id == server_id
    house.fleet.addresses._server_id = ""
    assert house.fleet.addresses.server_id == server_id, "also of a server that is started again"
    assert rotations.rotations()[0].next == "nothing: the rotation has ended"
    with pytest.raises(errors.BadCaRotationError):
        rotations.undo()
    # and another one
    again = rotations.start(spread_s=0, reason="", by="anna")
    assert again.old_ca == fingerprint_of(new)
    assert house.fleet.addresses.server_id == server_id


def test_a_device_that_was_away_past_its_certificate_comes_back_with_one_of_the_new_ca(house: House) -> None:
    rotations, away = house.fleet.ca_rotations, Member(house)
    house.fleet.receiver.forget_presence()
    house.clock.turn(minutes=11)
    rotations.start(spread_s=0, reason="", by="anna")
    away.hear()
    rotations.finish(leave_behind=0, reason="")
    settle(house)
    house.clock.turn(days=91)
    with pytest.raises(EdgefleetError, match="ended"):
        house.fleet.authenticator.authenticate(away.device.token(house.clock.now()))
    away.renew()
    assert is_of(away, house.signing.cas.current())
    away.connect()
    assert house.fleet.ca_rotations.rotations()[0].followers.followed == 1


def test_a_device_that_enrols_during_a_rotation_follows_as_well(house: House) -> None:
    """Its claim token may be of before, so its certificate is of the old CA; it is due as soon as it hears."""
    old = house.signing.cas.current()
    house.fleet.ca_rotations.start(spread_s=0, reason="", by="anna")
    house.clock.turn(days=3)
    member = Member(house)
    assert is_of(member, old)
    assert member.is_due
    member.hear()
    member.renew()
    assert not is_of(member, old)
    assert not member.is_due


def test_between_decision_and_deed_nobody_gets_a_certificate_of_the_ca_that_goes(house: House) -> None:
    member = Member(house)
    house.fleet.ca_rotations.start(spread_s=0, reason="", by="anna")
    new = house.signing.cas.following()
    house.fleet.ca_rotations.finish(leave_behind=1, reason="theft")
    member.renew()
    assert new is not None
    assert is_of(member, new)


def test_an_undone_rotation_leaves_the_ca_of_before(house: House) -> None:
    rotations, cas, member, other = house.fleet.ca_rotations, house.signing.cas, Member(house), Member(house)
    old = cas.current()
    rotations.start(spread_s=0, reason="", by="anna")
    member.hear()
    member.renew()
    member.connect()
    house.clock.turn(minutes=20)
    undone = rotations.undo()
    assert (undone.state, undone.followers.followed, undone.followers.online) == ("undoing", 1, 2)
    assert [one.device for one in undone.followers.behind] == [member.device.id]
    with pytest.raises(errors.CaRotationUnfinishedError, match=member.device.id):
        rotations.finish(leave_behind=0, reason="")
    assert member.is_due
    member.hear()
    member.renew()
    member.connect()
    assert is_of(member, old)
    assert rotations.finish(leave_behind=0, reason="").state == "undone"
    settle(house)
    assert (cas.current(), cas.following()) == (old, None)
    assert is_of(other, old)


def test_devices_are_left_behind_with_a_reason_only(house: House) -> None:
    rotations, member = house.fleet.ca_rotations, Member(house)
    rotations.start(spread_s=0, reason="", by="anna")
    with pytest.raises(errors.CaRotationUnfinishedError) as refused:
        rotations.finish(leave_behind=0, reason="")
    assert "--leave-behind 1 --reason" in refused.value.next_step
    with pytest.raises(errors.BadCaRotationError, match="without a reason"):
        rotations.finish(leave_behind=1, reason=" ")
    ended = rotations.finish(leave_behind=1, reason="the key was stolen")
    assert (ended.left_behind, ended.left_reason, ended.followers.behind[0].device) == (
        1,
        "the key was stolen",
        member.device.id,
    )


def test_a_power_cut_after_the_decision_ends_it_all_the_same(house: House) -> None:
    rotations, cas = house.fleet.ca_rotations, house.signing.cas
    rotations.start(spread_s=0, reason="", by="anna")
    new = cas.following()
    rotations.finish(leave_behind=0, reason="")
    assert cas.current() != new, "decided, not carried out"
    assert not rotations.rotations()[0].settled
    with pytest.raises(errors.CaRotationUnderWayError):
        rotations.start(spread_s=0, reason="", by="anna")
    keys = house.folder / "keys"
    (keys / NEXT_KEY_FILE).replace(keys / CA_KEY_FILE)  # and another one between two names
    settle(house)
    assert (cas.current(), cas.following()) == (new, None)
    assert rotations.rotations()[0].settled


def test_a_next_ca_that_was_lost_with_the_key_folder_is_made_again(house: House) -> None:
    rotations, cas = house.fleet.ca_rotations, house.signing.cas
    first = rotations.start(spread_s=0, reason="", by="anna")
    cas.drop_next()
    assert not rotations.rotations()[0].settled
    with pytest.raises(errors.BadCaRotationError, match="not in the key folder"):
        rotations.finish(leave_behind=0, reason="")
    again = rotations.start(spread_s=0, reason="", by="anna")
    assert again.new_ca != first.new_ca
    assert again.settled


def test_with_targets_in_the_hands_of_holders_devices_wait_for_their_signatures(house: House, tmp_path: Path) -> None:
    holders = media(tmp_path, threshold=1)
    hold_ceremony(house.signing, holders, "anna")
    rotations, member = house.fleet.ca_rotations, Member(house)
    started = rotations.start(spread_s=0, reason="", by="anna")
    assert not started.in_force
    assert started.signing_request
    assert "holders" in started.next
    member.renew()
    assert is_of(member, house.signing.cas.current())
    with pytest.raises(errors.CaRotationUnfinishedError, match="not signed"):
        rotations.finish(leave_behind=9, reason="theft")
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    assert "CAs" in asked.purpose
    house.signing.ceremony.take(asked.id, [answer(asked, holders["ben"])])
    assert rotations.rotations()[0].in_force
    member.hear()
    member.renew()
    assert not is_of(member, house.signing.cas.current())


def test_a_next_ca_that_no_row_names_is_destroyed_and_the_next_rotation_begins(house: House) -> None:
    """The power fails in `start` when the files are written and the transaction is not."""
    rotations, cas = house.fleet.ca_rotations, house.signing.cas
    rotations.start(spread_s=0, reason="", by="anna")
    rotations.finish(leave_behind=0, reason="")
    settle(house)
    own = cas.current()
    cas.make_next()
    assert not rotations.rotations()[0].settled
    settle(house)
    assert (cas.current(), cas.following()) == (own, None)
    assert rotations.rotations()[0].settled
    assert rotations.start(spread_s=0, reason="", by="anna").old_ca == fingerprint_of(own)


def test_a_start_that_is_refused_leaves_no_ca(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    cas = house.signing.cas

    def refuse(*_args: object, **_more: object) -> None:
        raise RequestWaitingError("another request waits for signatures")

    monkeypatch.setattr(house.signing.places, "announce", refuse)
    with pytest.raises(RequestWaitingError):
        house.fleet.ca_rotations.start(spread_s=0, reason="", by="anna")
    assert cas.following() is None, "the broker would trust a CA that nobody asked for"


def test_a_clock_that_was_set_back_hides_no_rotation(house: House) -> None:
    rotations, server_id = house.fleet.ca_rotations, house.fleet.addresses.server_id
    house.clock.turn(days=400)
    rotations.start(spread_s=0, reason="", by="anna")
    rotations.finish(leave_behind=0, reason="")
    settle(house)
    house.clock.turn(days=-400)
    again = rotations.start(spread_s=0, reason="it is right now", by="anna")
    assert (again.state, again.settled) == ("started", True)
    assert [one.reason for one in rotations.rotations()] == ["it is right now", ""]
    house.fleet.addresses._server_id = ""
    assert house.fleet.addresses.server_id == server_id, "that of the CA that the server began with"


def test_devices_that_a_started_server_has_not_heard_of_yet_are_missed_too(house: House) -> None:
    rotations = house.fleet.ca_rotations
    Member(house)
    rotations.start(spread_s=0, reason="", by="anna")
    house.fleet.receiver.forget_presence()  # as a server that is started does
    with pytest.raises(errors.CaRotationUnfinishedError, match="1 of 1 devices"):
        rotations.finish(leave_behind=0, reason="")
    house.clock.turn(minutes=11)
    assert rotations.finish(leave_behind=0, reason="").state == "finished", "it is away"


def test_each_step_takes_its_turn_before_it_locks_the_rotation(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL two that take them in different order would wait for each other."""
    rotations, seen = house.fleet.ca_rotations, list[str]()
    take = house.signing.cas.take_turn

    def turn() -> None:
        seen.append("turn")
        take()

    def read(session: Session, *, lock: bool = False) -> FleetCaRotation | None:
        seen.extend(["row"] * lock)
        return newest_ca_rotation(session, lock=lock)

    monkeypatch.setattr(house.signing.cas, "take_turn", turn)
    monkeypatch.setattr(service, "newest_ca_rotation", read)
    rotations.start(spread_s=0, reason="", by="anna")
    acts: list[Callable[[], object]] = [
        lambda: rotations.start(spread_s=0, reason="", by="anna"),
        rotations.undo,
        lambda: rotations.finish(leave_behind=0, reason=""),
        rotations.step,
    ]
    for act in acts:
        seen.clear()
        act()
        assert seen[:2] == ["turn", "row"]


def test_a_move_and_a_rotation_wait_for_each_other(house: House) -> None:
    house.fleet.ca_rotations.start(spread_s=0, reason="", by="anna")
    with pytest.raises(errors.MoveUnderWayError, match="device CA"):
        house.fleet.moves.plan(Wanted(host="new.example"), "anna")
    house.fleet.ca_rotations.finish(leave_behind=0, reason="")
    settle(house)
    house.fleet.moves.plan(Wanted(host="new.example"), "anna")
    with pytest.raises(errors.CaRotationUnderWayError, match="move"):
        house.fleet.ca_rotations.start(spread_s=0, reason="", by="anna")


def test_with_a_signing_process_it_makes_the_ca_and_has_devices_trust_no_other(house: House, tmp_path: Path) -> None:
    rotations = house.fleet.ca_rotations
    with apart_of(house, tmp_path) as apart:
        cas = house.signing.cas
        member, old = Member(house), cas.current()
        rotations.start(spread_s=0, reason="", by="anna")
        new = cas.following()
        assert new is not None
        member.hear()
        member.renew()
        member.connect()
        assert is_of(member, new)
        thief = DeviceAuthority(tmp_path)
        thief.create(house.clock.now())
        with pytest.raises(StatementRefusedError, match="none of this key folder"):
            house.signing.places.announce([house.fleet.moves.here()], [thief.certificate_pem(), old], spread_s=0)
        rotations.finish(leave_behind=0, reason="")
        assert apart.handler.answer(m.ChangeCa("promote")).code == "", (
            "the power fails before the answer is written down"
        )
        assert cas.current() == old
        settle(house)
        assert (cas.current(), cas.following()) == (new, None)
        assert rotations.rotations()[0].settled
        assert is_issued_by(house.signing.server_cert_file, new)
        assert not (apart.keys / NEXT_KEY_FILE).exists()


@pytest.mark.parametrize("state", list(CaRotationState))
def test_what_is_trusted_is_what_stays_and_while_it_lasts_both(state: CaRotationState) -> None:
    found = rules.trusted(state, b"old", b"new")
    assert found[0].decode() == rules.stays(state, "old", "new")
    assert len(found) == (2 if state in UNDER_WAY else 1)
    end = rules.end_of(state)
    assert end not in UNDER_WAY
    assert rules.stays(end, "old", "new") == rules.stays(state, "old", "new")
    words = {
        rules.next_step(state, EMPTY, in_force=in_force, settled=settled, request=request)
        for in_force in (False, True)
        for settled in (False, True)
        for request in ("", "r-1")
    }
    assert all(words)


@pytest.mark.parametrize(
    ("days", "word"), [(400, ""), (365, ""), (364, "soon"), (90, "soon"), (89, "now"), (-1, "now")]
)
def test_the_end_of_a_ca_is_said_a_year_before(days: int, word: str) -> None:
    now = datetime(2026, 12, 1, tzinfo=UTC)
    found = rules.life_in_words(now + timedelta(days=days, hours=1), now)
    assert word in found
    assert bool(found) is bool(word)
