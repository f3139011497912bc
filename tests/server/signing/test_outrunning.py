"""A server restored from an older copy signs itself ahead of what devices have seen: the rules, and python-tuf's own client."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlmodel import col
from tuf.api.exceptions import BadVersionNumberError, RepositoryError
from tuf.ngclient import Updater  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_protocol.digest import Sha256
from edgefleet_server.signing import store
from edgefleet_server.signing.fast_forward_recovery import (
    MAX_AHEAD,
    MAX_EMPTY,
    ResignPlan,
    SignedVersions,
    VersionsSeen,
    resign_plan,
)
from edgefleet_server.signing.tables import SigningMetadata
from tests.server.fleet.house import House
from tests.server.signing.test_repository import SHA, client

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
OURS = SignedVersions({"snapshot": 200, "targets": 100, "releases": 150, "director": 100, "m.digits": 150})
NAMES = st.sampled_from(["m.digits", "m.late", "m.later", "m.", "m.root", "releases", "root", "late", "m.Ä"])


def test_nothing_is_signed_for_a_device_that_has_seen_less() -> None:
    assert resign_plan(OURS, VersionsSeen(99), NOW) is None
    assert resign_plan(OURS, VersionsSeen(0, {"m.digits": 500}), NOW) is None, "it is here"


def test_everything_is_signed_above_the_highest_that_was_seen() -> None:
    assert resign_plan(OURS, VersionsSeen(300), NOW) == ResignPlan(300, everything=True)
    assert resign_plan(OURS, VersionsSeen(100), NOW) == ResignPlan(100, everything=True), (
        "it may have been our lowest that went back"
    )


def test_roles_of_models_that_are_unknown_here_are_made_and_no_others() -> None:
    seen = VersionsSeen(0, {"m.late": 700, "m.a": 1, "releases": 9, "evil": 9, "m.root": 9, "m.../x": 9, "": 9})
    assert resign_plan(OURS, seen, NOW) == ResignPlan(700, everything=False, lost=("m.a", "m.late"))


def test_what_no_clock_says_is_not_believed() -> None:
    most = int((NOW + MAX_AHEAD).timestamp())
    assert resign_plan(OURS, VersionsSeen(2**62), NOW) == ResignPlan(most, everything=True)
    assert resign_plan(OURS, VersionsSeen(0, {"m.late": 2**62}), NOW) == ResignPlan(
        most, everything=False, lost=("m.late",)
    )
    ahead = SignedVersions(dict.fromkeys(OURS.versions, most + 1))
    assert resign_plan(ahead, VersionsSeen(2**62), NOW) is None, "a lie moves the versions once, not again and again"
    assert resign_plan(OURS, VersionsSeen(-5, {"m.late": -5}), NOW) == ResignPlan(0, everything=False, lost=("m.late",))


def test_only_so_many_roles_without_a_bundle_are_made() -> None:
    seen = VersionsSeen(0, {f"m.x{i:03}": NOW_S for i in range(MAX_EMPTY + 10)})
    plan = resign_plan(OURS, seen, NOW)
    assert plan is not None
    assert len(plan.lost) == MAX_EMPTY
    assert resign_plan(SignedVersions(OURS.versions, MAX_EMPTY), seen, NOW) is None


@given(
    st.integers(-5, 2**63),
    st.dictionaries(NAMES, st.integers(-5, 2**63)),
    st.dictionaries(NAMES, st.integers(1, NOW_S + 100_000), min_size=1),
)
def test_once_signed_there_is_nothing_more_to_sign(version: int, roles: dict[str, int], ours: dict[str, int]) -> None:
    seen = VersionsSeen(version, roles)
    plan = resign_plan(SignedVersions(ours), seen, NOW)
    if plan is None:
        return
    assert plan.above <= int((NOW + MAX_AHEAD).timestamp())
    touched = [*(ours if plan.everything else ()), *plan.lost]
    after = {**ours, **{name: max(ours.get(name, 0) + 1, NOW_S, plan.above + 1) for name in touched}}
    assert resign_plan(SignedVersions(after, len(plan.lost)), seen, NOW) is None


# ---- with the real client


def updater(house: House, folder: Path) -> Updater:
    """Return the device's client; it goes by the house's clock."""
    made = client(house, folder)
    made._trusted_set.reference_time = house.clock.now()
    return made


def forget_since(house: House, moment: datetime) -> None:
    """Make the repository what a copy of that moment would say."""
    with house.db.session() as session:
        session.execute(delete(SigningMetadata).where(col(SigningMetadata.created_at) > moment))
    house.clock.turn(minutes=5)
    house.signing.start()


def versions(house: House) -> dict[str, int]:
    """Return the newest version of every role."""
    with house.db.read() as session:
        found = {name: store.latest(session, name) for name in store.names(session)}
    return {name: file[0] for name, file in found.items() if file is not None}


def test_a_client_that_saw_more_is_served_without_publishing_again(any_house: House, tmp_path: Path) -> None:
    house, folder = any_house, tmp_path / "client"
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    house.signing.add_target("other/1.0.0/p.bundle", 100, SHA, {})
    backup = house.clock.now()
    house.clock.turn(hours=1)
    house.signing.add_target("digits/1.1.0/p.bundle", 100, Sha256("d" * 64), {})
    updater(house, folder).refresh()
    seen = max(version for name, version in versions(house).items() if name != "root")

    forget_since(house, backup)
    with pytest.raises(BadVersionNumberError):
        updater(house, folder).refresh()
    plan = house.signing.outrun(VersionsSeen(seen))
    assert plan is not None
    assert plan.everything
    found = updater(house, folder)
    for path in ("digits/1.0.0/p.bundle", "other/1.0.0/p.bundle"):
        assert found.get_targetinfo(path) is not None
    assert found.get_targetinfo("digits/1.1.0/p.bundle") is None
    before = versions(house)
    assert house.signing.outrun(VersionsSeen(seen)) is None
    assert versions(house) == before


def test_a_model_that_only_devices_know_keeps_its_role_and_is_filled_by_publishing(
    any_house: House, tmp_path: Path
) -> None:
    house, folder = any_house, tmp_path / "client"
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    backup = house.clock.now()
    house.clock.turn(hours=1)
    house.signing.add_target("late/1.0.0/p.bundle", 100, SHA, {})
    updater(house, folder).refresh()
    seen = versions(house)

    forget_since(house, backup)
    assert house.signing.outrun(VersionsSeen(max(seen.values()))) is not None
    with pytest.raises(RepositoryError, match=r"missing info for 'm\.late\.json'"):
        updater(house, folder).refresh()
    plan = house.signing.outrun(VersionsSeen(0, {"m.late": seen["m.late"]}))
    assert plan == ResignPlan(seen["m.late"], everything=False, lost=("m.late",))
    assert house.signing.lost_models() == ["late"]
    found = updater(house, folder)
    assert found.get_targetinfo("digits/1.0.0/p.bundle") is not None
    assert found.get_targetinfo("late/1.0.0/p.bundle") is None

    house.clock.turn(seconds=5)
    assert house.signing.add_target("late/1.0.0/p.bundle", 100, SHA, {})
    assert house.signing.lost_models() == []
    assert updater(house, folder).get_targetinfo("late/1.0.0/p.bundle") is not None


def test_versions_that_ran_ahead_of_the_clock_are_outrun(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "client"
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    backup = house.clock.now()
    house.clock.turn(seconds=1)
    for i in range(400):  # a second each, in no time
        house.signing.add_target(f"digits/1.1.{i}/p.bundle", 100, SHA, {})
    updater(house, folder).refresh()
    seen = max(version for name, version in versions(house).items() if name != "root")
    forget_since(house, backup)
    assert seen > int(house.clock.now().timestamp())
    house.signing.outrun(VersionsSeen(seen))
    updater(house, folder).refresh()
    assert min(version for name, version in versions(house).items() if name != "root") > seen


def test_signing_everything_renews_it(house: House) -> None:
    house.signing.add_target("digits/1.0.0/p.bundle", 100, SHA, {})
    house.clock.turn(days=40)
    house.signing.start()
    house.signing.outrun(VersionsSeen(int(house.clock.now().timestamp())))
    ends = {role.name: role.expires - house.clock.now() for role in house.signing.roles() if role.name != "root"}
    assert ends["m.digits"] > timedelta(days=89)
    assert ends["targets"] > timedelta(days=179)
