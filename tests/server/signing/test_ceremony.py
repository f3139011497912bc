"""Root and targets of a running fleet given to three holders, two of whom must sign; the client of python-tuf follows or it does not."""

import copy
import datetime as dt
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_ceremony.signature_request import request_of
from edgefleet_protocol.digest import Sha256
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing import store
from edgefleet_server.signing.errors import (
    BadAnswerError,
    BadHolderError,
    RequestOutdatedError,
    RequestUnknownError,
    RequestWaitingError,
    RoleOfflineError,
    RoleUnknownError,
)
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.service import SigningService
from tests.server.fleet.house import House, TurnedClock
from tests.server.signing.test_repository import client
from tests.support.holders import NAMES, answer, hold_ceremony, media, public

SHA = Sha256("a" * 64)
PATH = "digits/1.0.0/p.bundle"


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three media, the third with the other algorithm."""
    folder = tmp_path_factory.mktemp("media")
    return {**media(folder, NAMES[:2]), **media(folder, NAMES[2:], algorithm="ecdsa")}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server that begins now, since the TUF client asks the machine for the time."""
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(SystemClock().now()))
    made.signing.add_target(PATH, 100, SHA, {})
    yield made
    made.db.engine.dispose()


def versions(house: House) -> dict[str, int]:
    """Return the newest version of root and targets."""
    with house.db.read() as session:
        return {name: file.version for name, file in store.newest_files(session, ["root", "targets"]).items()}


def follows(house: House, folder: Path) -> bool:
    """Return whether a client that pinned the first root comes to the bundle."""
    updater = client(house, folder)
    updater.refresh()
    return updater.get_targetinfo(PATH) is not None


@pytest.mark.parametrize("signers", [("anna", "ben"), ("ben", "carl"), ("anna", "carl")])
def test_a_trial_becomes_a_fleet_whose_root_needs_two_of_three(
    house: House, holders: dict[str, Path], tmp_path: Path, signers: tuple[str, ...]
) -> None:
    assert follows(house, tmp_path / "old")
    gone = hold_ceremony(house.signing, holders, *signers)
    assert gone == ["root.pem", "root.passphrase", "targets.pem"]
    roles = {one.name: one for one in house.signing.roles()}
    for name in ("root", "targets"):
        assert (roles[name].threshold, len(roles[name].keys), roles[name].holders) == (2, 3, list(NAMES))
        assert (roles[name].is_offline, roles[name].resign_at) == (True, None)
    assert not roles["snapshot"].is_offline
    assert not house.signing.trust().is_root_here
    assert follows(house, tmp_path / "old"), "a device that was there before"
    assert follows(house, tmp_path / "new"), "a device that pinned the first root and was off"
    again = SigningService(house.db, house.folder / "keys", house.clock)
    assert again.is_initialised()
    again.start()
    again.add_target("digits/1.1.0/p.bundle", 100, SHA, {})
    again.add_target("faces/1.0.0/p.bundle", 100, SHA, {})
    again.publish_audit_head(b"{}", 1)
    assert follows(house, tmp_path / "old")


def test_one_answer_is_not_enough_and_changes_nothing(house: House, holders: dict[str, Path]) -> None:
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    before = versions(house)
    assert [(one.role, one.missing) for one in asked.thresholds] == [("root", 0), ("root", 2), ("targets", 2)]
    for _ in range(2):  # the same answer twice counts once
        after = house.signing.ceremony.take(asked.id, [answer(asked, holders["anna"])])
        assert [(one.role, one.missing) for one in after.thresholds] == [("root", 0), ("root", 1), ("targets", 1)]
    assert (versions(house), after.state, house.signing.ceremony.finish()) == (before, "waiting", [])
    assert house.signing.trust().is_root_here
    done = house.signing.ceremony.take(asked.id, [answer(asked, holders["carl"])])
    assert (done.state, versions(house)["root"]) == ("done", 2)
    with pytest.raises(RequestUnknownError):
        house.signing.ceremony.take(asked.id, [answer(asked, holders["ben"])])


def test_a_crash_before_keys_are_destroyed_is_made_up_for(house: House, holders: dict[str, Path]) -> None:
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "ben")])
    keys = house.folder / "keys"
    assert (keys / "root.pem").exists(), "the crash was here"
    SigningService(house.db, keys, house.clock).start()
    assert not [name for name in ("root.pem", "root.passphrase", "targets.pem") if (keys / name).exists()]
    assert "not here" in (keys / "README.txt").read_text()


def test_a_commit_that_fails_leaves_all_as_it_was(house: House, holders: dict[str, Path], tmp_path: Path) -> None:
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    answers = [answer(asked, holders[name]) for name in ("anna", "ben")]
    (house.folder / "keys" / "timestamp.pem").rename(tmp_path / "away")
    fresh = SigningService(house.db, house.folder / "keys", house.clock)
    with pytest.raises(Exception, match=r"timestamp\.pem"):
        fresh.ceremony.take(asked.id, answers)
    assert (versions(house)["root"], fresh.ceremony.finish()) == (1, [])
    assert house.signing.trust().is_root_here
    (tmp_path / "away").rename(house.folder / "keys" / "timestamp.pem")
    assert fresh.ceremony.take(asked.id, answers).state == "done"
    assert follows(house, tmp_path / "client")


def test_an_old_root_key_that_left_the_server_signs_the_request_where_it_is(
    house: House, holders: dict[str, Path], tmp_path: Path
) -> None:
    from edgefleet_ceremony.signature_request import answer_bytes
    from edgefleet_cli.keys.holder_folder import read_signers
    from edgefleet_cli.keys.request_signature import signed_by

    keys = house.folder / "keys"
    passphrase = (keys / "root.passphrase").read_bytes()
    for name in ("root.pem", "root.passphrase"):
        (keys / name).rename(tmp_path / name)
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    waiting = house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "ben")])
    assert next((one.by, one.missing) for one in waiting.thresholds) == ("root of today", 1)
    old = signed_by(request_of(asked.document.encode()), read_signers(tmp_path / "root.pem", lambda _what: passphrase))
    done = house.signing.ceremony.take(asked.id, [answer_bytes(old).decode()])
    assert (done.state, house.signing.ceremony.finish()) == ("done", ["targets.pem"])
    assert follows(house, tmp_path / "client")


# ---- what does not count


def test_signatures_of_strangers_and_damaged_ones_are_refused_whole(
    house: House, holders: dict[str, Path], tmp_path: Path
) -> None:
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    good = json.loads(answer(asked, holders["anna"]))
    stranger = media(tmp_path, ("eve",))["eve"]
    theirs = house.signing.ceremony  # an answer of a key with no say is made by hand: `key sign` refuses to
    from edgefleet_cli.keys.holder_folder import read_signers
    from tests.support.holders import PASSPHRASE

    file = request_of(asked.document.encode()).proposed["root"].signed_bytes
    foreign = [one.sign(file).to_dict() for one in read_signers(stranger, lambda _what: PASSPHRASE)]
    claimed = [{"keyid": good["signatures"]["root"][0]["keyid"], "sig": foreign[0]["sig"]}]
    for root in (foreign, claimed, good["signatures"]["targets"]):
        bad = {**good, "signatures": {"root": [*good["signatures"]["root"], *root]}}
        with pytest.raises(BadAnswerError, match="do not count"):
            theirs.take(asked.id, [json.dumps(bad)])
    for text in ("", "{}", "[]", "nonsense", json.dumps({**good, "request": "0" * 16}), '{"a":' * 100_000):
        with pytest.raises(BadAnswerError):
            theirs.take(asked.id, [text])
    assert all(one.missing == one.needed for one in theirs.waiting().thresholds[1:])  # type: ignore[union-attr]


def test_an_answer_to_another_request_does_not_count(house: House, holders: dict[str, Path]) -> None:
    parts = [public(one) for one in holders.values()]
    first = house.signing.ceremony.give_to_holders(parts, None)
    old = answer(first, holders["anna"])
    with pytest.raises(RequestWaitingError):
        house.signing.ceremony.give_to_holders(parts, None)
    assert house.signing.ceremony.drop(first.id).state == "dropped"
    house.clock.turn(seconds=5)
    second = house.signing.ceremony.give_to_holders(parts, None)
    with pytest.raises(BadAnswerError, match="belongs to request"):
        house.signing.ceremony.take(second.id, [old])


def test_the_first_head_of_the_audit_trail_makes_no_request_worthless(house: House, holders: dict[str, Path]) -> None:
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    house.signing.publish_audit_head(b"{}", 1)
    assert (
        house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "ben")]).state
        == "done"
    )
    house.signing.publish_audit_head(b"{ }", 2)


def test_a_request_is_worth_nothing_once_targets_changed(house: House, holders: dict[str, Path]) -> None:
    asked = house.signing.ceremony.give_to_holders([public(one) for one in holders.values()], None)
    house.clock.turn(days=91)
    house.signing.resign_due()
    with pytest.raises(RequestOutdatedError):
        house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "ben")])
    assert versions(house)["root"] == 1


def test_holders_that_cannot_be_are_refused(house: House, holders: dict[str, Path]) -> None:
    ceremony = house.signing.ceremony
    anna, ben = public(holders["anna"]), public(holders["ben"])
    for parts, threshold in (([anna, anna], 2), ([anna, ben], 3), ([anna, ben.replace('"ben"', '"bob"')], 2)):
        with pytest.raises(BadHolderError):
            ceremony.give_to_holders(parts, threshold)
    mixed = json.loads(anna)
    mixed["keys"]["root"] = json.loads(ben)["keys"]["root"]
    with pytest.raises(BadHolderError, match="did not sign it"):
        ceremony.give_to_holders([json.dumps(mixed), ben], 2)
    with pytest.raises(RoleOfflineError):
        ceremony.renew(["root"])
    assert ceremony.waiting() is None


# ---- afterwards


def test_what_needs_targets_waits_and_nothing_else_does(house: House, holders: dict[str, Path], tmp_path: Path) -> None:
    hold_ceremony(house.signing, holders)

    def change(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles["director"].paths = ["director/*", "elsewhere/*"]

    asked = house.signing.ceremony.change_targets("another path", change)
    assert any("director" in line and "elsewhere" in line for line in asked.changes)
    house.signing.add_target("digits/1.1.0/p.bundle", 100, SHA, {})
    assert follows(house, tmp_path / "client")
    done = house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "carl")])
    assert done.state == "done"
    assert follows(house, tmp_path / "client")


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("director", "--new-key director"),
        ("timestamp", "--new-key timestamp"),
        ("targets", "--replace HOLDER"),
        ("root", "--replace HOLDER"),
    ],
)
def test_a_rotation_that_needs_holders_says_how_to_ask_them(
    house: House, holders: dict[str, Path], role: str, words: str
) -> None:
    hold_ceremony(house.signing, holders)
    before = house.signing._ring.inventory()
    for act in (house.signing.keys.rotate, house.signing.keys.revoke):
        with pytest.raises(RoleOfflineError) as caught:
            act(role, KeyOrder())
        assert words in str(caught.value.next_step)
    assert house.signing._ring.inventory() == before, "no key was made, and none destroyed"
    assert house.signing.keys.rotate("m.digits", KeyOrder()).roles[0].role == "m.digits", (
        "what the server signs goes on"
    )


@pytest.mark.parametrize("role", ["director", "releases", "snapshot", "timestamp"])
def test_a_role_of_the_server_gets_a_new_key_once_its_holders_signed(
    house: House, holders: dict[str, Path], tmp_path: Path, role: str
) -> None:
    hold_ceremony(house.signing, holders)
    named = house.signing._repository.role_keys
    with house.db.read() as session:
        before = named(session).of(role)[0]
    dropped = house.signing.ceremony.renew_keys([role])
    house.signing.ceremony.drop(dropped.id)
    asked = house.signing.ceremony.renew_keys([role])
    house.signing.add_target("digits/1.1.0/p.bundle", 100, SHA, {})
    house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "carl")])
    house.signing.ceremony.finish()
    with house.db.read() as session:
        after = named(session).of(role)[0]
    assert (len(after), after != before) == (1, True)
    keys = house.signing._ring.inventory().of_role(role)
    assert [one.state for one in keys] == ["retired", "revoked", "active"], (
        "a thief may have the one of the dropped request"
    )
    assert not (house.folder / "keys" / keys[1].uri.removeprefix("file2:")).exists()
    assert follows(house, tmp_path / "client")
    house.signing.add_target("faces/1.0.0/p.bundle", 100, SHA, {})
    assert follows(house, tmp_path / "client")
    for wrong in ("targets", "root", "m.digits", ""):
        with pytest.raises(BadHolderError):
            house.signing.ceremony.renew_keys([wrong])


def test_targets_and_root_are_asked_for_at_half_of_their_life(house: House, holders: dict[str, Path]) -> None:
    hold_ceremony(house.signing, holders)
    house.signing.resign_due()
    assert house.signing.ceremony.waiting() is None
    house.clock.turn(days=91)
    house.signing.resign_due()
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    assert asked.purpose == "renew targets"
    house.signing.resign_due()
    house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("ben", "carl")])
    assert house.signing.role("targets").expires > house.clock.now() + dt.timedelta(days=179)
    house.clock.turn(days=92)
    house.signing.resign_due()
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    assert asked.purpose == "renew root and targets"
    house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("ben", "carl")])
    assert house.signing.root_expires() > house.clock.now() + dt.timedelta(days=364)


@pytest.mark.parametrize("role", ["director", "timestamp"])
def test_a_key_that_a_request_waits_for_is_not_revoked_by_a_change_that_only_holders_can_make(
    house: House, holders: dict[str, Path], role: str
) -> None:
    hold_ceremony(house.signing, holders)
    asked = house.signing.ceremony.renew_keys([role])
    for change in (house.signing.keys.rotate, house.signing.keys.revoke):
        with pytest.raises(RoleOfflineError) as refused:
            change(role, KeyOrder())
        assert f"`edgectl key ceremony --new-key {role} " in refused.value.next_step
    with pytest.raises(RoleOfflineError, match="keys of targets are with its holders"):
        house.signing.keys.rotate("targets", KeyOrder())
    done = house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "carl")])
    assert done.state == "done"
    old, _ = house.signing._ring.inventory().of_role(role)
    house.signing.keys.revoke(role, KeyOrder(), old.keyid)[1]()  # the stolen one, once it is in use no more
    assert house.signing._ring.inventory().of_role(role)[0].state == "revoked"


def test_a_key_is_revoked_under_the_name_of_its_own_role_only(house: House) -> None:
    (other,) = house.signing._ring.inventory().of_role("timestamp")
    with pytest.raises(RoleUnknownError, match="no key of 'director' has the id"):
        house.signing.keys.revoke("director", KeyOrder(), other.keyid)


def test_a_request_that_the_server_made_can_give_way_to_another(
    house: House, holders: dict[str, Path], tmp_path: Path
) -> None:
    hold_ceremony(house.signing, holders)
    house.clock.turn(days=91)
    house.signing.resign_due()
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    house.signing.ceremony.drop(asked.id)
    house.signing.resign_due()
    assert house.signing.ceremony.waiting() is None
    house.clock.turn(days=1, seconds=1)
    house.signing.resign_due()
    assert house.signing.ceremony.waiting() is not None


def test_a_request_that_waited_too_long_brings_nothing_into_force_that_is_over(
    house: House, holders: dict[str, Path]
) -> None:
    hold_ceremony(house.signing, holders)
    asked = house.signing.ceremony.renew(["targets"])
    answers = [answer(asked, holders[name]) for name in ("anna", "ben")]
    house.clock.turn(days=181)
    with pytest.raises(RequestOutdatedError, match="over already"):
        house.signing.ceremony.take(asked.id, answers)


def test_a_key_that_cannot_be_destroyed_keeps_nothing_from_being_signed(
    house: House, holders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = house.folder / "keys" / "root.pem"
    root.rename(tmp_path / "on-a-stick.pem")
    root.symlink_to(tmp_path / "on-a-stick.pem")
    assert hold_ceremony(house.signing, holders) == ["root.passphrase", "targets.pem"]
    assert "root.pem is trusted no more and cannot be destroyed" in caplog.text
    again = SigningService(house.db, house.folder / "keys", house.clock)
    again.start()
    house.clock.turn(hours=13)
    assert again.resign_due()


def test_a_lost_or_stolen_key_is_replaced_by_the_other_two(
    house: House, holders: dict[str, Path], tmp_path: Path
) -> None:
    hold_ceremony(house.signing, holders)
    dora = media(tmp_path, ("dora",))["dora"]
    with pytest.raises(BadHolderError, match="anna, ben, carl"):
        house.signing.ceremony.replace_holder("zoe", public(dora))
    asked = house.signing.ceremony.replace_holder("carl", public(dora))
    done = house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "ben")])
    assert (done.state, house.signing.role("root").holders) == ("done", ["anna", "ben", "dora"])
    assert follows(house, tmp_path / "client")
    renewed = house.signing.ceremony.renew(["targets"])
    from edgefleet_cli.keys.errors import BadRequestFileError

    with pytest.raises(BadRequestFileError, match="has a say"):
        answer(renewed, holders["carl"])
    house.signing.ceremony.take(renewed.id, [answer(renewed, one) for one in (dora, holders["anna"])])
    assert follows(house, tmp_path / "client")


def test_a_restored_server_asks_its_holders_to_catch_up(house: House, holders: dict[str, Path]) -> None:
    from edgefleet_server.signing.fast_forward_recovery import VersionsSeen

    hold_ceremony(house.signing, holders)
    seen = int(house.clock.now().timestamp()) + 500
    assert house.signing.outrun(VersionsSeen(seen)) is not None
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    signed: Any = request_of(asked.document.encode()).proposed["targets"].signed
    assert signed.version > seen


def test_a_thief_of_the_key_folder_of_before_signs_no_targets(
    house: House, holders: dict[str, Path], tmp_path: Path
) -> None:
    keys = house.folder / "keys"
    shutil.copytree(keys, tmp_path / "stolen")
    hold_ceremony(house.signing, holders)
    thief = SigningService(house.db, tmp_path / "stolen", house.clock)
    with house.db.session() as session:
        _, targets = thief._repository.today(session)
        with pytest.raises(RoleOfflineError):
            thief._repository.publish(session, {"targets": targets.signed}, house.clock.now())
    forged = copy.deepcopy(targets)
    forged.signed.version += 100
    old = {one.keyid for one in thief._ring.inventory().of_role("targets")}
    forged.sign(cast("Any", thief._ring.signer(old.pop())), append=False)
    with house.db.session() as session:
        thief._repository.publish_signed(session, {"targets": forged}, house.clock.now())
    with pytest.raises(RepositoryError):
        follows(house, tmp_path / "client")
