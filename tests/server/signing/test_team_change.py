"""What a stolen server may write into a proposal: each difference that was not asked for is a reason to refuse."""

import copy
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Delegations,
    Metadata,
    Root,
    TargetFile,
    Targets,
)

from edgefleet_ceremony.file_format import BadCeremonyFileError
from edgefleet_ceremony.team_change import change_lines, refusals
from edgefleet_ceremony.team_request import (
    TeamAct,
    TeamKeys,
    TeamRequest,
    checked_team,
    team_request_bytes,
    team_request_of,
)
from tests.support.teams import member

NOW = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)
SECOND = int(NOW.timestamp())
KEY = member().public_key
TEAM = TeamKeys(keys={KEY.keyid: KEY}, threshold=1)


def target(version: str, number: int | None, **custom: Any) -> TargetFile:
    """Return a bundle as a role names it. number: its security version, None for none."""
    said = {"leaves": "b" * 64, "leaf_bytes": 65536, "model": "digits", "version": version, "profile": "p", **custom}
    said |= {} if number is None else {"sec_version": number}
    path = f"digits/{version}/p.bundle"
    return TargetFile(
        100, {"sha256": version.replace(".", "0").ljust(64, "a")}, path, unrecognized_fields={"custom": said}
    )


def role() -> Targets:
    """Return a role with two releases, one of before security versions, and one withdrawn."""
    found = Targets(version=SECOND - 1000, expires=NOW + dt.timedelta(days=40))
    found.targets = {one.path: one for one in (target("1.0.0", None), target("1.1.0", SECOND - 1000))}
    found.unrecognized_fields["custom"] = {"withdrawn": ["0.9.0"], "sec_floor": 1000}
    return found


def asked(act: TeamAct, version: str = "") -> TeamRequest:
    """Return an honest request."""
    current, proposed = role(), role()
    proposed.version, proposed.expires = SECOND, NOW + dt.timedelta(days=90)
    if act is TeamAct.RELEASE:
        proposed.targets["digits/1.2.0/p.bundle"] = target("1.2.0", SECOND)
    if act is TeamAct.WITHDRAW:
        del proposed.targets["digits/1.1.0/p.bundle"]
        proposed.targets["digits/1.0.0/p.bundle"] = target("1.0.0", 5)
        proposed.unrecognized_fields["custom"] = {"withdrawn": ["0.9.0", "1.1.0"], "sec_floor": 2000}
    return TeamRequest(
        model="digits",
        act=act,
        version=version,
        made_at=NOW,
        team=TEAM,
        root=Metadata(Root(expires=NOW)),
        targets=Metadata(Targets(expires=NOW, delegations=Delegations({}, {}))),
        current=Metadata(current),
        proposed=Metadata(proposed),
    )


HONEST = [(TeamAct.RELEASE, "1.2.0"), (TeamAct.WITHDRAW, "1.1.0"), (TeamAct.RENEW, ""), (TeamAct.TEAM, "")]


@pytest.mark.parametrize(("act", "version"), HONEST)
def test_what_is_just_what_was_asked_for_is_signed(act: TeamAct, version: str) -> None:
    request = asked(act, version)
    assert refusals(request, NOW) == []
    again = team_request_of(team_request_bytes(request))
    assert (again.id, refusals(again, NOW), change_lines(again)) == (request.id, [], change_lines(request))


def _put(name: str, **changes: Any) -> Callable[[Targets], None]:
    def tamper(signed: Targets) -> None:
        signed.targets[f"digits/{name}/p.bundle"] = target(name, SECOND, **changes)

    return tamper


def _custom(**changes: Any) -> Callable[[Targets], None]:
    def tamper(signed: Targets) -> None:
        signed.unrecognized_fields["custom"] = {**signed.unrecognized_fields["custom"], **changes}

    return tamper


def _delegate(signed: Targets) -> None:
    signed.delegations = Delegations(dict(TEAM.keys), {"m.digits": TEAM.delegation("digits")})


def _digest(signed: Targets) -> None:
    signed.targets["digits/1.0.0/p.bundle"].hashes["sha256"] = "f" * 64


def _field(name: str, value: Any) -> Callable[[Targets], None]:
    return lambda signed: setattr(signed, name, value)


def _unrecognized(name: str) -> Callable[[Targets], None]:
    def tamper(signed: Targets) -> None:
        signed.unrecognized_fields[name] = True

    return tamper


TAMPERED: dict[str, Callable[[Targets], None]] = {
    "another release's bundle": _put("6.6.6"),
    "another model's bundle": lambda s: s.targets.update({"faces/1.2.0/p.bundle": target("1.2.0", SECOND)}),
    "a path that only looks like it": lambda s: s.targets.update({"digits/1.2.0/../x.bundle": target("1.2.0", SECOND)}),
    "other bytes under a known path": _digest,
    "a withdrawn release again": _custom(withdrawn=[]),
    "a lower floor": _custom(sec_floor=0),
    "no floor": lambda s: s.unrecognized_fields.update({"custom": {"withdrawn": ["0.9.0", "1.1.0"]}}),
    "a floor in words": _custom(sec_floor="high"),
    "a word of its own": _custom(more=1),
    "a delegation": _delegate,
    "a field of its own": _unrecognized("x-more"),
    "a mark as emptied": _unrecognized("x-edgefleet-emptied"),
    "a floor that has not come yet, which nobody could lower": _custom(sec_floor=SECOND + 86_401 * 2),
    "a withdrawn version of another type": _custom(withdrawn=[9, "1.1.0"]),
    "a withdrawn version that no device reads": _custom(withdrawn=["0.9.0", "1.1.0", "../1"]),
    "an older version": _field("version", SECOND - 1001),
    "a version without room for later ones": _field("version", SECOND + 86_401 * 2),
    "a life without end": _field("expires", NOW + dt.timedelta(days=93)),
    "a life that is over": _field("expires", NOW),
}


@pytest.mark.parametrize(("act", "version"), HONEST)
@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_is_slipped_in_is_refused(what: str, act: TeamAct, version: str) -> None:
    request = asked(act, version)
    TAMPERED[what](request.proposed.signed)
    assert refusals(request, NOW), what


@pytest.mark.parametrize(
    "tamper",
    [
        _put("1.2.0", model="faces"),
        _put("1.2.0", more="x"),
        lambda s: s.targets.update({"digits/1.2.0/p.bundle": target("1.2.0", SECOND + 86_401 * 2)}),
        lambda s: s.targets.update({"digits/1.2.0/p.bundle": target("1.2.0", -5)}),
        lambda s: s.targets["digits/1.2.0/p.bundle"].unrecognized_fields.update({"more": "x"}),
        _put("1.2.0", leaves="no digest"),
        _custom(withdrawn=["0.9.0", "1.2.0"]),
        lambda s: s.targets.pop("digits/1.0.0/p.bundle"),
        lambda s: s.targets.pop("digits/1.2.0/p.bundle"),
    ],
)
def test_a_release_is_its_bundles_and_nothing_else(tamper: Callable[[Targets], Any]) -> None:
    request = asked(TeamAct.RELEASE, "1.2.0")
    tamper(request.proposed.signed)
    assert refusals(request, NOW)
    assert refusals(asked(TeamAct.RELEASE, "1.3.0"), NOW), "another release than was meant"


@pytest.mark.parametrize("act", [TeamAct.WITHDRAW, TeamAct.RENEW, TeamAct.TEAM])
def test_no_other_act_brings_a_bundle_in(act: TeamAct) -> None:
    request = asked(act)
    _put("1.2.0")(request.proposed.signed)
    assert refusals(request, NOW)


@pytest.mark.parametrize("number", [-1, "high", SECOND + 86_401 * 2])
def test_a_withdrawal_gives_no_number_from_the_future(number: Any) -> None:
    request = asked(TeamAct.WITHDRAW)
    request.proposed.signed.targets["digits/1.0.0/p.bundle"] = target("1.0.0", number)
    assert refusals(request, NOW)


def test_a_version_of_another_type_is_another_one() -> None:
    """A device reads no such list, so it would know of nothing that was withdrawn."""
    request = asked(TeamAct.RENEW)
    assert request.current is not None
    for role, known in ((request.current.signed, ["9"]), (request.proposed.signed, [9])):
        role.unrecognized_fields["custom"] = {"withdrawn": known}
    assert refusals(request, NOW)


@given(st.data())
def test_every_difference_is_a_line(data: st.DataObject) -> None:
    """No two proposals that differ read the same."""
    names = data.draw(st.lists(st.sampled_from(sorted(TAMPERED)), min_size=1, max_size=2, unique=True))
    request = asked(TeamAct.RENEW)
    plain = change_lines(request)
    before = copy.deepcopy(request.proposed.signed)
    for name in names:
        TAMPERED[name](request.proposed.signed)
    assert (request.proposed.signed == before) == (change_lines(request) == plain)


def test_a_key_under_the_id_of_another_is_found() -> None:
    other = member().public_key
    other.keyid = KEY.keyid
    with pytest.raises(BadCeremonyFileError, match="another key"):
        checked_team([other], 1)
    text = team_request_bytes(asked(TeamAct.RENEW)).decode()
    with pytest.raises(BadCeremonyFileError, match="id does not belong"):
        team_request_of(text.replace('"sec_floor":1000', '"sec_floor":1001').encode())
