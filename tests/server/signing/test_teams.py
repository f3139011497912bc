"""Models that their teams sign: taken over, published, withdrawn, renewed and handed on; the client of python-tuf follows or does not."""

import contextlib
import copy
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_agent.verifier.errors import MetadataError
from edgefleet_agent.verifier.repository import Repository
from edgefleet_protocol.desired import Ref
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.sealed_model import KEY_BYTES
from edgefleet_server.clock import SystemClock
from edgefleet_server.registry.model import ReleaseState
from edgefleet_server.signing.errors import (
    BadAnswerError,
    BadHolderError,
    RequestOutdatedError,
    RequestUnknownError,
    RequestWaitingError,
    RoleOfflineError,
)
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.repository import SERIALIZER
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.teams.role_metadata import delegate
from edgefleet_server.signing.teams.views import TeamRequestView
from tests.server.fleet.house import House, TurnedClock
from tests.server.signing.test_repository import client
from tests.support.holders import NAMES, answer, hold_ceremony, media
from tests.support.teams import form_team, member, pem, team_answer

SHA = Sha256("a" * 64)
MODEL, PROFILE = "digits", "generic-x86_64-ort"
TEAM = (member(), member(is_ecdsa=True), member())


def path(version: str, model: str = MODEL) -> str:
    """Return the target path of a release."""
    return f"{model}/{version}/{PROFILE}.bundle"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server with one release, that begins now, since the TUF client asks the machine for the time."""
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(SystemClock().now()))
    made.release(f"{MODEL}@1.0.0", bundles={PROFILE: b"one"})
    yield made
    made.db.engine.dispose()


def finds(house: House, folder: Path, wanted: str) -> bool:
    """Return whether a client that pinned the first root comes to a bundle."""
    updater = client(house, folder)
    updater.refresh()
    return updater.get_targetinfo(wanted) is not None


def publish(house: House, version: str, model: str = MODEL) -> ReleaseRef:
    """Convert a release."""
    ref = house.release(f"{model}@{version}", bundles={PROFILE: version.encode()})
    house.jobs.jobs.pop(ref, None)
    house.registry.refresh_state(ref)
    return ref


def asked_for(house: House, version: str, model: str = MODEL) -> TeamRequestView:
    """Return what the team of a model is asked for a release."""
    found = house.signing.teams.ask_release(model, version)
    assert found is not None
    return found


def test_a_team_takes_a_model_over_and_devices_find_the_same_bundles(house: House, tmp_path: Path) -> None:
    device = tmp_path / "device"
    assert finds(house, device, path("1.0.0"))
    asked = house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], 2)
    after = house.signing.teams.take(asked.id, team_answer(asked, TEAM[0]))
    assert (after.state, len(after.signed), after.needed) == ("waiting", 1, 2)
    assert not house.signing.role(f"m.{MODEL}").is_offline
    done = house.signing.teams.take(asked.id, team_answer(asked, TEAM[1]))
    assert (done.state, house.signing.teams.waiting(MODEL)) == ("done", None)
    gone = house.signing.teams.finish()
    assert [name.startswith("m.digits.") for name in gone] == [True], gone
    role = house.signing.role(f"m.{MODEL}")
    assert (role.threshold, len(role.keys), role.is_offline, role.resign_at) == (2, 3, True, None)
    assert finds(house, device, path("1.0.0"))
    assert finds(house, tmp_path / "new", path("1.0.0"))
    SigningService(house.db, house.folder / "keys", house.clock).start()  # signs the rest without it
    publish(house, "1.0.0", "faces")
    assert finds(house, device, path("1.0.0", "faces"))


def test_a_release_is_offered_only_once_its_team_has_signed_it(house: House, tmp_path: Path) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    ref = publish(house, "1.1.0")
    found = house.registry.release(ref)
    assert (found.state, found.bundles) == (ReleaseState.UNSIGNED, ())
    assert not finds(house, tmp_path / "device", path("1.1.0"))
    asked = asked_for(house, "1.1.0")
    assert asked_for(house, "1.1.0").id == asked.id, "asked again: the same"
    assert any(line.startswith(f"adds {path('1.1.0')}") for line in asked.changes)
    house.signing.teams.take(asked.id, team_answer(asked, TEAM[2]))
    assert house.registry.release(ref).state is ReleaseState.UNSIGNED
    house.signing.teams.take(asked.id, team_answer(asked, TEAM[0]))
    found = house.registry.release(ref)
    assert (found.state, [one.target for one in found.bundles]) == (ReleaseState.READY, [path("1.1.0")])
    assert finds(house, tmp_path / "device", path("1.1.0"))
    with pytest.raises(RequestUnknownError):
        house.signing.teams.ask_release(MODEL, "1.1.0")


def test_a_sealed_bundle_is_still_sealed_once_its_team_has_signed_it(house: House) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    key = bytes(range(KEY_BYTES))
    ref = house.release(f"{MODEL}@1.1.0", bundles={}, seal=True)
    house.bundle(ref.model, ref.version, ProfileName(PROFILE), b"sealed", key=key)
    house.jobs.jobs.pop(ref, None)
    house.registry.refresh_state(ref)
    asked = asked_for(house, "1.1.0")
    house.signing.teams.take(asked.id, team_answer(asked, TEAM[0], TEAM[1]))
    (bundle,) = house.registry.release(ref).bundles
    assert bundle.is_sealed
    assert house.registry.fleet_key.open(bundle.sealed_key, bundle.sha256) == key


def test_the_server_signs_nothing_of_a_model_with_a_team(house: House) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    house.signing.teams.finish()
    for attempt in (
        lambda: house.signing.add_target(path("6.6.6"), 1, SHA, {}),
        lambda: house.signing.remove_targets([path("1.0.0")]),
        lambda: house.signing.keys.rotate(f"m.{MODEL}", KeyOrder()),
        lambda: house.signing.keys.revoke(f"m.{MODEL}", KeyOrder()),
    ):
        with pytest.raises(RoleOfflineError, match="team"):
            attempt()
    house.clock.turn(days=50)
    house.signing.resign_due()
    assert (house.signing.teams.requests()[0].act, house.signing.role("releases").is_offline) == ("renew", False)


@pytest.mark.parametrize("threshold", [0, 4])
def test_a_team_that_could_never_sign_is_refused(house: House, threshold: int) -> None:
    with pytest.raises(BadHolderError):
        house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], threshold)
    with pytest.raises(BadHolderError, match="same"):
        house.signing.teams.set_team(MODEL, [pem(TEAM[0])] * 2, 1)
    own = house.signing.role("director").key_details[0].public
    with pytest.raises(BadHolderError, match="server"):
        house.signing.teams.set_team(MODEL, [own], 1)


def test_answers_that_do_not_count_are_refused_whole(house: House) -> None:
    asked = house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], 2)
    for wrong in (team_answer(asked, TEAM[0], member()), "{}", team_answer(asked, TEAM[0]).replace(asked.id, "0" * 16)):
        with pytest.raises(BadAnswerError):
            house.signing.teams.take(asked.id, wrong)
    assert house.signing.teams.request(asked.id).signed == []
    # of another request
    form_team(house.signing, MODEL, TEAM, 2)
    publish(house, "1.1.0")
    other = asked_for(house, "1.1.0")
    with pytest.raises(BadAnswerError):
        house.signing.teams.take(other.id, team_answer(asked, TEAM[0]).replace(asked.id, other.id))


def test_a_lost_key_is_replaced_and_the_lost_one_is_useless(house: House, tmp_path: Path) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    publish(house, "1.1.0")
    stale = asked_for(house, "1.1.0")
    fresh = (TEAM[0], TEAM[1], member())
    form_team(house.signing, MODEL, fresh, 2)
    with pytest.raises(RequestUnknownError):
        house.signing.teams.take(stale.id, team_answer(stale, TEAM[0], TEAM[2]))
    asked = asked_for(house, "1.1.0")
    with pytest.raises(BadAnswerError, match="not the team's"):
        house.signing.teams.take(asked.id, team_answer(asked, TEAM[2]))
    house.signing.teams.take(asked.id, team_answer(asked, fresh[2], fresh[0]))
    assert finds(house, tmp_path / "device", path("1.1.0"))
    assert finds(house, tmp_path / "device", path("1.0.0"))


def test_a_withdrawal_waits_for_the_team_and_does_not_queue(house: House, tmp_path: Path) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    publish(house, "1.1.0")
    waiting = asked_for(house, "1.1.0")
    assert house.signing.withdraw_targets(TargetWithdrawal(MODEL, [path("1.0.0")], ["1.0.0"]))
    asked = house.signing.teams.waiting(MODEL)
    assert asked is not None
    assert (asked.act, asked.version) == ("withdraw", "1.0.0")
    assert house.signing.teams.request(waiting.id).state == "dropped"
    assert not house.signing.withdraw_targets(TargetWithdrawal(MODEL, (), ["1.0.0"])), "asked for already"
    with pytest.raises(RequestWaitingError):
        house.signing.teams.ask_release(MODEL, "1.1.0")
    assert finds(house, tmp_path / "device", path("1.0.0")), "until the team has signed"
    house.signing.teams.take(asked.id, team_answer(asked, *TEAM[:2]))
    assert not finds(house, tmp_path / "device", path("1.0.0"))
    again = asked_for(house, "1.1.0")
    house.signing.teams.take(again.id, team_answer(again, *TEAM[1:]))
    assert finds(house, tmp_path / "device", path("1.1.0"))


def test_what_was_signed_before_the_role_changed_is_worth_nothing(house: House) -> None:
    asked = house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], 2)
    house.signing.withdraw_targets(TargetWithdrawal(MODEL, [path("1.0.0")], ["1.0.0"]))
    with pytest.raises(RequestUnknownError):
        house.signing.teams.take(asked.id, team_answer(asked, *TEAM[:2]))
    asked = house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], 2)
    house.clock.turn(days=91)
    with pytest.raises(RequestOutdatedError, match="over"):
        house.signing.teams.take(asked.id, team_answer(asked, *TEAM[:2]))


def test_bundles_wait_while_a_team_forms_and_are_signed_here_when_it_does_not(house: House, tmp_path: Path) -> None:
    asked = house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], 2)
    ref = publish(house, "1.1.0")
    assert house.registry.release(ref).state is ReleaseState.UNSIGNED
    house.signing.teams.drop(asked.id)
    assert house.registry.release(ref).state is ReleaseState.READY
    assert finds(house, tmp_path / "device", path("1.1.0"))


def test_bundles_do_not_wait_for_a_team_that_a_withdrawal_dropped(house: House, tmp_path: Path) -> None:
    house.signing.teams.set_team(MODEL, [pem(one) for one in TEAM], 2)
    ref = publish(house, "1.1.0")
    house.signing.withdraw_targets(TargetWithdrawal(MODEL, [path("1.0.0")], ["1.0.0"]))
    assert house.registry.release(ref).state is ReleaseState.READY
    assert finds(house, tmp_path / "device", path("1.1.0"))
    assert not finds(house, tmp_path / "device", path("1.0.0"))


def test_a_request_for_a_new_model_is_dropped_where_the_server_may_not_sign_it(house: House) -> None:
    form_team(house.signing, MODEL, TEAM, 2, "close")
    asked = house.signing.teams.set_team("words", [pem(member())], 1)
    ref = publish(house, "1.0.0", "words")
    assert house.signing.teams.drop(asked.id).state == "dropped"
    assert house.registry.release(ref).state is ReleaseState.UNSIGNED, "it waits for another team"
    form_team(house.signing, "words", [one := member()], 1)
    mine = asked_for(house, "1.0.0", "words")
    house.signing.teams.take(mine.id, team_answer(mine, one))
    assert house.registry.release(ref).state is ReleaseState.READY


def test_one_key_is_in_one_team(house: House) -> None:
    """Metadata does not say whose it is: with the same keys a stolen server shows the role of one model as that of another."""
    form_team(house.signing, MODEL, TEAM, 2)
    with pytest.raises(BadHolderError, match="another model"):
        house.signing.teams.set_team("faces", [pem(TEAM[0])], 1)
    house.signing.teams.set_team(MODEL, [pem(TEAM[0]), pem(member())], 1)


def test_a_device_believes_the_role_of_a_team_from_targets_alone(house: House, tmp_path: Path) -> None:
    """A stolen server lets `releases` hand on another model to a role of the same name, in between."""
    publish(house, "1.0.0", "faces")
    form_team(house.signing, MODEL, TEAM, 2)
    thief = member()
    with house.db.session() as session:
        repository, now = house.signing._repository, house.clock.now()
        forged = repository.newest(session, f"m.{MODEL}")
        assert forged is not None
        one = copy.deepcopy(forged.signed.targets[path("1.0.0")])
        one.path = path("6.6.6")
        forged.signed.targets[one.path] = one
        forged.sign(thief)
        releases = repository.load(session, "releases")
        assert releases.delegations is not None
        known = dict(releases.delegations.roles or {})
        releases.delegations.roles = {}
        delegate(releases, f"m.{MODEL}", thief.public_key, ["faces/*/*"])
        releases.delegations.roles |= known
        repository.publish(session, {"releases": releases}, now)
    lies = False

    def source(name: str, _most: int) -> bytes | None:
        return (
            forged.to_bytes(SERIALIZER)
            if lies and name.endswith(f".m.{MODEL}.json")
            else house.signing.metadata_file(name)
        )

    root = house.signing.metadata_file("1.root.json")
    assert root is not None
    device = Repository(tmp_path / "device", root, source, None, now)
    device.refresh()
    assert device.sec_version(path("1.0.0")) > 0
    lies = True
    with contextlib.suppress(MetadataError):
        device.sec_version(path("1.0.0", "faces"))
    with pytest.raises(MetadataError, match="two roles"):
        device.target(Ref(target=one.path, sha256=one.hashes["sha256"], length=one.length))


def test_a_closed_server_signs_no_new_models(house: House, tmp_path: Path) -> None:
    publish(house, "1.0.0", "faces")
    form_team(house.signing, MODEL, TEAM, 2, "close")
    publish(house, "1.1.0", "faces")
    with pytest.raises(RoleOfflineError, match="no new models"):
        publish(house, "1.0.0", "words")
    form_team(house.signing, "words", [one := member()], 1)
    publish(house, "1.0.1", "words")
    asked = asked_for(house, "1.0.1", "words")
    house.signing.teams.take(asked.id, team_answer(asked, one))
    assert all(
        finds(house, tmp_path / "device", one)
        for one in (path("1.1.0", "faces"), path("1.0.1", "words"), path("1.0.0"))
    )
    form_team(house.signing, MODEL, TEAM, 2, "open")
    publish(house, "1.0.0", "birds")


def test_after_a_ceremony_holders_let_the_team_sign(house: House, tmp_path: Path) -> None:
    holders = media(tmp_path, NAMES)
    hold_ceremony(house.signing, holders)
    ready = form_team(house.signing, MODEL, TEAM, 2, "close")
    assert (ready.state, house.signing.role(f"m.{MODEL}").is_offline) == ("ready", False)
    ref = publish(house, "1.1.0")
    assert house.registry.release(ref).state is ReleaseState.UNSIGNED, "it waits meanwhile"
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    assert [line for line in asked.changes if f"m.{MODEL} needs 2 of 3 keys" in line]
    house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "carl")])
    house.signing.teams.finish()
    assert house.signing.teams.request(ready.id).state == "done"
    assert house.signing.role(f"m.{MODEL}").threshold == 2
    assert finds(house, tmp_path / "device", path("1.0.0"))
    with pytest.raises(RoleOfflineError):
        publish(house, "1.0.0", "faces")
    mine = asked_for(house, "1.1.0")
    house.signing.teams.take(mine.id, team_answer(mine, *TEAM[:2]))
    assert finds(house, tmp_path / "device", path("1.1.0"))


def test_holders_cannot_bring_in_a_team_whose_role_changed_since(house: House, tmp_path: Path) -> None:
    holders = media(tmp_path, NAMES)
    hold_ceremony(house.signing, holders)
    form_team(house.signing, MODEL, TEAM, 2)
    house.signing.withdraw_targets(TargetWithdrawal(MODEL, [path("1.0.0")], ["1.0.0"]))
    asked = house.signing.ceremony.waiting()
    assert asked is not None
    with pytest.raises(RequestOutdatedError, match="another one now"):
        house.signing.ceremony.take(asked.id, [answer(asked, holders[name]) for name in ("anna", "carl")])


def test_a_life_that_is_half_over_is_asked_for_and_given(house: House, tmp_path: Path) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    before = house.signing.role(f"m.{MODEL}").expires
    assert not house.signing.teams.ask_due()
    house.clock.turn(days=46)
    assert house.signing.teams.ask_due()
    assert not house.signing.teams.ask_due()
    asked = house.signing.teams.waiting(MODEL)
    assert asked is not None
    house.signing.teams.take(asked.id, team_answer(asked, *TEAM[:2]))
    assert house.signing.role(f"m.{MODEL}").expires - before > dt.timedelta(days=45)
    publish(house, "1.1.0")
    with pytest.raises(EdgefleetError):
        house.signing.teams.take(asked.id, team_answer(asked, *TEAM[:2]))


def test_a_deleted_release_takes_its_request_along(house: House) -> None:
    form_team(house.signing, MODEL, TEAM, 2)
    publish(house, "1.1.0")
    asked = asked_for(house, "1.1.0")
    house.signing.teams.drop_release(MODEL, "1.1.0")
    assert house.signing.teams.request(asked.id).state == "dropped"
