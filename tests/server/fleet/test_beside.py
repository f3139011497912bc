"""A release beside the active one: which documents get it, what changes them, and what ends it."""

import msgspec
import pytest

from edgefleet_protocol.desired import ModelDesired, Ref
from edgefleet_protocol.ids import ModelName, ReleaseRef
from edgefleet_server.fleet.desired.candidate import CandidateRequest, salt_of, with_candidate
from edgefleet_server.fleet.desired.model import CandidateOrder, ModelChange
from tests.server.fleet.house import PROFILE, House

OLD, NEW = (Ref(target=f"digits/{v}/p.bundle", sha256=v, length=1) for v in ("1.0.0", "1.1.0"))
DIGITS = ModelName("digits")


def wish(mode: str, ref: Ref = NEW, share_pct: int = 0) -> CandidateRequest:
    return CandidateRequest(DIGITS, ref, CandidateOrder(mode, share_pct, "s" if mode == "split" else ""))  # type: ignore[arg-type]


def test_a_candidate_needs_an_active_version_that_is_another_one() -> None:
    assert with_candidate({}, wish("shadow")) == "no version of digits is active there"
    only = {"digits": ModelDesired(active=OLD)}
    assert with_candidate(only, wish("shadow", OLD)) == "it is the active version there"
    assert with_candidate(only, wish("end")) == "it does not run beside the active version there"


def test_mode_and_share_change_in_place_and_end_leaves_the_active_one() -> None:
    one = with_candidate({"digits": ModelDesired(active=OLD), "other": ModelDesired(active=NEW)}, wish("shadow"))
    assert isinstance(one, dict)
    assert one["digits"] == ModelDesired(active=OLD, candidate=NEW, mode="shadow")
    two = with_candidate(one, wish("split", share_pct=20))
    assert isinstance(two, dict)
    assert two["digits"] == ModelDesired(active=OLD, candidate=NEW, mode="split", share_pct=20, salt="s")
    three = with_candidate(two, wish("end"))
    assert three == {"digits": ModelDesired(active=OLD), "other": ModelDesired(active=NEW)}


def test_the_salt_is_the_releases_so_that_keys_stay_where_they_are() -> None:
    assert salt_of("digits@1.1.0") == salt_of("digits@1.1.0") != salt_of("digits@1.2.0")
    assert salt_of("digits@1.1.0", "mine") == "mine"


@pytest.fixture
def two_releases(house: House) -> House:
    """A device that should run 1.0.0, and 1.1.0 beside it to choose from."""
    house.device()
    first = house.release("digits@1.0.0", bundles={PROFILE: b"old"})
    house.release("digits@1.1.0", bundles={PROFILE: b"new"})
    house.fleet.deployer.deploy(first, selector="")
    return house


def test_deploying_beside_signs_once_and_is_seen(two_releases: House) -> None:
    fleet = two_releases.fleet
    new = ReleaseRef.parse("digits@1.1.0")
    first = fleet.deployer.deploy(new, selector="", order=CandidateOrder("split", 10))
    again = fleet.deployer.deploy(new, selector="", order=CandidateOrder("split", 10))
    assert [one.gen for one in first.set] == [one.gen for one in again.set]
    more = fleet.deployer.deploy(new, selector="", order=CandidateOrder("split", 30))
    assert more.set[0].gen == first.set[0].gen + 1
    view = fleet.reader.device(more.set[0].device).desired.models[0]
    assert view.release == "digits@1.0.0"
    assert view.candidate is not None
    assert (view.candidate.release, view.candidate.mode, view.candidate.share_pct) == ("digits@1.1.0", "split", 30)
    assert view.candidate.salt == salt_of("digits@1.1.0")
    offered = {blob.sha256 for blob in fleet.desired.offered_to(more.set[0].device)}
    assert view.candidate.sha256 in offered
    kinds = [event.detail.get("mode") for event in fleet.feed.page(limit=9)[0] if event.kind == "desired"]
    assert kinds[:2] == ["split", "split"]


def test_a_dry_run_changes_nothing_and_another_active_version_ends_it(two_releases: House) -> None:
    fleet = two_releases.fleet
    new = ReleaseRef.parse("digits@1.1.0")
    told = fleet.deployer.deploy(new, selector="", dry_run=True, order=CandidateOrder("shadow"))
    device = told.set[0].device
    assert fleet.reader.device(device).desired.models[0].candidate is None
    fleet.deployer.deploy(new, selector="", order=CandidateOrder("shadow"))
    fleet.deployer.deploy(new, selector="")
    model = fleet.reader.device(device).desired.models[0]
    assert (model.release, model.candidate) == ("digits@1.1.0", None)
    skipped = fleet.deployer.deploy(new, selector="", order=CandidateOrder("shadow")).skipped
    assert [one.reason for one in skipped] == ["it is the active version there"]


def test_a_measurement_needs_nothing_active_and_takes_no_shadow_s_place() -> None:
    one = with_candidate({}, wish("measure"))
    assert isinstance(one, dict)
    assert one["digits"] == ModelDesired(active=None, candidate=NEW, mode="measure")
    two = with_candidate(one, wish("measure"))
    assert isinstance(two, dict)
    assert two["digits"].candidate is not None
    assert two["digits"].candidate.attempt == 2
    assert with_candidate(two, wish("end")) == {}
    of_active = with_candidate({"digits": ModelDesired(active=NEW)}, wish("measure"))
    assert isinstance(of_active, dict)
    assert of_active["digits"] == ModelDesired(active=NEW, candidate=NEW, mode="measure")
    assert with_candidate(of_active, wish("end")) == {"digits": ModelDesired(active=NEW)}
    shadowed = {"digits": ModelDesired(active=OLD, candidate=NEW, mode="shadow")}
    assert with_candidate(shadowed, wish("measure")) == "a shadow of another release runs there; end that first"


def test_a_rollout_that_offers_the_same_version_again_leaves_the_candidate(two_releases: House) -> None:
    fleet = two_releases.fleet
    device = (
        fleet.deployer.deploy(ReleaseRef.parse("digits@1.1.0"), selector="", order=CandidateOrder("shadow"))
        .set[0]
        .device
    )
    before = fleet.offers.wants([device], DIGITS)[device].active
    assert before is not None
    fleet.desired.set_models([ModelChange(device, DIGITS, msgspec.structs.replace(before, attempt=2, rollout="r-1"))])
    assert fleet.reader.device(device).desired.models[0].candidate is not None
    other = msgspec.structs.replace(before, sha256="0" * 64)
    fleet.desired.set_models([ModelChange(device, DIGITS, other)])
    assert fleet.reader.device(device).desired.models[0].candidate is None
