"""Deployments and desired documents."""

import datetime as dt
import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from edgefleet_protocol.desired import DESIRED_TYPE, Desired, Ref, decode_desired
from edgefleet_protocol.ids import ModelName, ReleaseRef
from edgefleet_protocol.messages import ErrorClass, Event, EventKind, ModelState, Phase, Presence, State
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.model import ActiveRequest, ModelChange, SignedDesired
from edgefleet_server.fleet.errors import (
    BadLabelError,
    BadSelectorError,
    DeviceRevokedError,
    DeviceUnknownError,
    NothingToDeployError,
)
from edgefleet_server.fleet.inventory.device_list import DeviceQuery, Place
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.registry.errors import ProfileUnknownError, ReleaseUnknownError
from tests.server.fleet.house import FACTS, PROFILE, House
from tests.support.statements import heard

OTHER = "generic-aarch64-ort"


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


def document_of(house: House, device: str) -> Desired:
    """Return a device's document after checking its signature."""
    signed = house.fleet.documents.of_device(device)  # type: ignore[arg-type]
    assert signed is not None
    return decode_desired(verify_envelope(signed.envelope, DESIRED_TYPE, [house.signing.director_key()]))


def state(device: str, *, gen: int, seq: int = 1, boot: str = "b1", models: Sequence[ModelState] = ()) -> State:
    """Return a reported state."""
    return State(
        device=device, gen=gen, boot_id=boot, seq=seq, ts=0, models=list(models), facts={"disk_free_bytes": 700 << 20}
    )


def test_deploy_reaches_exactly_the_matching_devices(house: House) -> None:
    prod, dev = house.device(labels={"env": "prod"}), house.device(labels={"env": "dev"})
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    done = house.fleet.deployer.deploy(ref, selector="env=prod", by="ann")
    assert (done.matched, [one.device for one in done.set], done.skipped) == (1, [prod.id], [])
    active = document_of(house, prod.id).models["digits"].active
    bundle = house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    assert active is not None
    assert (active.target, active.sha256, active.length) == (bundle.target, bundle.sha256, bundle.length)
    assert document_of(house, dev.id).models == {}


def test_a_device_without_a_bundle_is_listed_with_reason_and_next_step(house: House) -> None:
    plain = house.device()
    converting, foreign = house.device(profile=OTHER), house.device(profile="raspberry-pi-4-ort")
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"}, profiles=[OTHER])
    done = house.fleet.deployer.deploy(ref, selector="")
    assert [one.device for one in done.set] == [plain.id]
    reasons = {one.device: one for one in done.skipped}
    assert "still being made" in reasons[converting.id].reason
    assert "was not built" in reasons[foreign.id].reason
    assert all(one.next for one in done.skipped)


def test_dry_run_changes_nothing(house: House) -> None:
    device = house.device()
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    done = house.fleet.deployer.deploy(ref, selector="", dry_run=True)
    assert [one.device for one in done.set] == [device.id]
    assert document_of(house, device.id).gen == 1


def test_deploying_again_signs_nothing(house: House) -> None:
    device = house.device()
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    house.fleet.deployer.deploy(ref, selector="")
    house.fleet.deployer.deploy(ref, selector="")
    assert document_of(house, device.id).gen == 2
    events = house.fleet.feed.page(device_id=device.id, before=None, since=None, limit=10)[0]
    assert [event.kind for event in events] == ["desired", "enrolled"]


def test_of_what_was_signed_only_news_is_read(house: House) -> None:
    house.release("m@1", bundles={PROFILE: b"1"})
    house.release("m@2", bundles={PROFILE: b"2"})
    devices = [house.device() for _ in range(3)]
    house.fleet.deployer.deploy(ReleaseRef.parse("m@1"), selector="", by="ann")
    since = house.clock.now()
    all_three = house.fleet.documents.desired_changed_since(since, {})
    assert {one.device for one in all_three} == {device.id for device in devices}
    known = {one.device: one.gen for one in all_three}
    assert house.fleet.documents.desired_changed_since(since, known) == []
    house.fleet.deployer.deploy(ReleaseRef.parse("m@2"), selector=f"id={devices[0].id}", by="ann")
    (news,) = house.fleet.documents.desired_changed_since(since, known)
    assert (news.device, news.gen) == (devices[0].id, known[devices[0].id] + 1)
    house.clock.turn(seconds=1)
    assert house.fleet.documents.desired_changed_since(house.clock.now(), {}) == []


def test_another_model_stays(house: House) -> None:
    device = house.device()
    for name in ("digits@1.0.0", "faces@2.0.0"):
        house.fleet.deployer.deploy(house.release(name, bundles={PROFILE: name.encode()}), device=device.id)
    assert set(document_of(house, device.id).models) == {"digits", "faces"}


def test_what_cannot_be_deployed_is_refused(house: House) -> None:
    device = house.device()
    with pytest.raises(ReleaseUnknownError):
        house.fleet.deployer.deploy(ReleaseRef.parse("digits@9"), selector="")
    ref = house.release("digits@1.0.0", bundles={}, profiles=[PROFILE])
    with pytest.raises(NothingToDeployError):
        house.fleet.deployer.deploy(ref, selector="")
    house.bundle(ref.model, ref.version, PROFILE, b"bundle")  # type: ignore[arg-type]
    with pytest.raises(NothingToDeployError):
        house.fleet.deployer.deploy(ref)
    with pytest.raises(BadSelectorError):
        house.fleet.deployer.deploy(ref, selector="a b")
    with pytest.raises(DeviceUnknownError):
        house.fleet.deployer.deploy(ref, device="d-none")
    house.fleet.revocation.revoke(device.id)
    with pytest.raises(DeviceRevokedError):
        house.fleet.deployer.deploy(ref, device=device.id)
    assert house.fleet.deployer.deploy(ref, selector="").matched == 0


def test_a_device_that_is_revoked_while_a_deployment_runs_gets_no_document(house: House) -> None:
    live, revoked = house.device(), house.device()
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    other = House(house.db.engine.url.render_as_string(hide_password=False), house.folder, house.clock)
    steps: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "fleet_device.labels" in statement:
            steps.append("matched")

    def revoke(_connection: object) -> None:
        if steps == ["matched"]:  # between the look at the fleet and the transaction that writes
            steps.append("revoked")
            other.fleet.revocation.revoke(revoked.id)

    for engine in house.db.engines:
        event.listen(engine, "after_cursor_execute", note)
    event.listen(house.db.engine, "engine_connect", revoke)
    done = house.fleet.deployer.deploy(ref, selector="")
    other.db.dispose()
    assert steps[:2] == ["matched", "revoked"]
    assert ([one.device for one in done.set], [one.device for one in done.skipped]) == ([live.id], [revoked.id])
    assert "revoked" in done.skipped[0].reason
    assert house.fleet.documents.of_device(revoked.id) is None
    with house.db.read() as session:
        assert desired_store.desired_row(session, revoked.id) is None


def test_listeners_hear_after_the_commit_and_not_of_a_rollback(house: House) -> None:
    device = house.device()
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    heard: list[SignedDesired] = []

    stop = house.fleet.desired.subscribe(heard.extend)

    def deploy_and_fail() -> None:
        with house.db.session():
            house.fleet.deployer.deploy(ref, selector="")
            raise RuntimeError("the caller fails")

    with pytest.raises(RuntimeError, match="the caller fails"):
        deploy_and_fail()
    assert heard == []
    assert document_of(house, device.id).gen == 1
    house.fleet.deployer.deploy(ref, selector="")
    assert [(one.device, one.gen) for one in heard] == [(device.id, 2)]
    stop()
    house.fleet.desired.resign(device.id)
    assert len(heard) == 1


def test_documents_are_signed_again_at_half_life(house: House) -> None:
    device = house.device()
    assert house.fleet.desired.resign_due(house.clock.now()) == 0
    house.clock.turn(days=4)
    assert house.fleet.desired.resign_due(house.clock.now()) == 1
    document = document_of(house, device.id)
    assert document.gen == 2
    assert document.expires - house.clock.now() > dt.timedelta(days=6)
    assert house.fleet.desired.resign_due(house.clock.now()) == 0


def test_a_device_is_locked_before_its_document(house: House) -> None:
    device = house.device()
    wish = ActiveRequest(ModelName("digits"), Ref(target=f"digits/1.0.0/{PROFILE}.bundle", sha256="a" * 64, length=1))
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        locked = re.search(
            r"FROM (fleet_device|fleet_desired)\b.*?(?:FOR UPDATE(?: OF (\w+))?|$)", statement, re.DOTALL
        )
        if locked is not None and (house.db.is_sqlite or "FOR UPDATE" in statement):
            seen.append(locked.group(2) or locked.group(1))

    event.listen(house.db.engine, "before_cursor_execute", note)
    for act in (
        lambda: house.fleet.desired.set_active({device.id: wish}),
        lambda: house.fleet.desired.resign(device.id),
        lambda: house.fleet.desired.set_models([ModelChange(device.id, wish.model, wish.active)]),
        lambda: house.fleet.revocation.revoke(device.id),
    ):
        seen.clear()
        act()
        assert seen[0] == "fleet_device", seen


def test_a_restored_database_is_heard_again(house: House) -> None:
    device = house.device()
    answer = house.fleet.receiver.take_state(device.id, state(device.id, gen=50))
    assert answer is not None
    assert answer.gen == 51
    assert document_of(house, device.id).gen == 51
    assert house.fleet.receiver.take_state(device.id, state(device.id, gen=51, seq=2)) is None


@pytest.mark.parametrize("gen", [2, 1], ids=["knows another one", "never heard that it accepted ours"])
def test_a_document_that_the_device_refuses_as_known_is_signed_above_it(house: House, gen: int) -> None:
    """The first after a restore of the server; the second of older agents, which ended a verifying process before it could tell."""
    device = house.device()
    house.fleet.desired.resign(device.id)
    said = msgspec.structs.replace(state(device.id, gen=gen), refused_gen=2, refused_code="verify.old_generation")
    answer = house.fleet.receiver.take_state(device.id, said)
    assert answer is not None
    assert answer.gen == 3
    assert house.fleet.receiver.take_state(device.id, msgspec.structs.replace(said, gen=3, seq=2)) is None
    older = msgspec.structs.replace(state(device.id, gen=3, seq=3), refused_gen=2, refused_code="verify.old_generation")
    assert house.fleet.receiver.take_state(device.id, older) is None, "an older one that came late says nothing"


def test_a_device_that_lacks_the_newest_document_gets_it(house: House) -> None:
    device = house.device()
    house.fleet.desired.resign(device.id)
    answer = house.fleet.receiver.take_state(device.id, state(device.id, gen=1))
    assert answer is not None
    assert answer.gen == 2


def test_a_document_that_the_device_refused_is_not_sent_in_circles(house: House) -> None:
    device = house.device()
    house.fleet.desired.resign(device.id)
    refusing = msgspec.structs.replace(state(device.id, gen=1), refused_gen=2, refused_code="verify.expired")
    assert house.fleet.receiver.take_state(device.id, refusing) is None
    house.fleet.desired.resign(device.id)
    answer = house.fleet.receiver.take_state(device.id, msgspec.structs.replace(refusing, seq=2))
    assert answer is not None
    assert answer.gen == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.just("sign"), st.integers(0, 40)), min_size=1, max_size=8))
def test_gen_only_rises_whatever_is_reported(house: House, steps: list[str | int]) -> None:
    device = house.device()
    last, seq = document_of(house, device.id).gen, 0
    for step in steps:
        if step == "sign":
            house.fleet.desired.resign(device.id)
        else:
            seq += 1
            house.fleet.receiver.take_state(device.id, state(device.id, gen=int(step), seq=seq))
            assert document_of(house, device.id).gen == (int(step) + 1 if int(step) > last else last)
        now = document_of(house, device.id).gen
        assert now > last if step == "sign" else now >= last
        last = now


def test_reported_models_become_facts(house: House) -> None:
    device = house.device()
    running = ModelState(
        model="digits",
        phase=Phase.COMMITTED,
        active_target=f"digits/1.1.0/{PROFILE}.bundle",
        active_sha256="a" * 64,
        serving=True,
    )
    house.fleet.receiver.take_state(device.id, state(device.id, gen=1, models=[running]))
    assert [one.id for one in house.fleet.devices.select("model.digits=1.1.0,free_mb>699")] == [device.id]
    [model] = house.fleet.reader.device(device.id).models
    assert (model.release, model.phase, model.state, model.serving) == ("digits@1.1.0", "committed", "healthy", True)
    assert house.fleet.reader.summary().models[0].devices == 1
    house.fleet.receiver.take_state(device.id, state(device.id, gen=1, seq=2))
    assert house.fleet.devices.select("model.digits") == []


def test_an_old_state_of_the_same_boot_changes_nothing(house: House) -> None:
    device = house.device()
    failed = ModelState(model="digits", phase=Phase.FAILED, error_class=ErrorClass.GOLDEN, error_code="golden.mismatch")
    house.fleet.receiver.take_state(device.id, state(device.id, gen=1, seq=5, models=[failed]))
    house.fleet.receiver.take_state(device.id, state(device.id, gen=1, seq=4))
    [model] = house.fleet.reader.device(device.id).models
    assert (model.state, model.error_class, model.error_code) == ("failed", "golden", "golden.mismatch")
    house.fleet.receiver.take_state(device.id, state(device.id, gen=1, seq=1, boot="b2"))
    assert house.fleet.reader.device(device.id).models == []


def test_a_stale_off_is_ignored(house: House) -> None:
    device = house.device()

    def say(on: bool, conn: str) -> DeviceStatus:
        house.fleet.receiver.take_presence(device.id, Presence(on=on, conn_id=conn, boot_id="b", ts=0))
        return house.fleet.reader.device(device.id).status

    assert say(True, "c1") is DeviceStatus.ONLINE
    assert say(True, "c2") is DeviceStatus.ONLINE
    assert say(False, "c1") is DeviceStatus.ONLINE
    assert say(False, "c2") is DeviceStatus.OFFLINE
    house.fleet.receiver.forget_presence()
    assert house.fleet.reader.device(device.id).status is DeviceStatus.UNKNOWN


def test_events_count_once(house: House) -> None:
    device = house.device()
    events = [
        Event(device=device.id, boot_id="b", seq=i, ts=1_764_000_000_000 + i, kind=EventKind.CRASH, model="digits")
        for i in range(3)
    ]
    assert house.fleet.receiver.take_events(events) == 3
    assert house.fleet.receiver.take_events([*events, events[0]]) == 0
    found, total = house.fleet.feed.page(device_id=device.id, before=None, since=None, limit=2)
    assert (len(found), total) == (3, 4)
    rest, _ = house.fleet.feed.page(device_id=device.id, before=found[1].id, since=None, limit=10)
    assert [event.kind for event in rest] == ["crash", "enrolled"]


def test_labels_and_profile_can_be_changed(house: House) -> None:
    device = house.device(labels={"env": "dev", "site": "north"})
    house.fleet.edits.update(device.id, {"env": "prod", "site": None}, OTHER)
    view = house.fleet.reader.device(device.id)
    assert (view.labels, view.profile) == ({"env": "prod"}, OTHER)
    assert house.fleet.reader.profiles_in_use() == [OTHER]
    with pytest.raises(BadLabelError):
        house.fleet.edits.update(device.id, {"id": "x"}, None)
    with pytest.raises(ProfileUnknownError):
        house.fleet.edits.update(device.id, {}, "none-such")
    with pytest.raises(DeviceUnknownError):
        house.fleet.edits.update("d-none", {}, None)


def test_devices_are_listed_in_pages(house: House) -> None:
    ids = sorted(house.device(labels={"n": str(i % 2)}).id for i in range(5))
    first = house.fleet.lists.page(DeviceQuery(limit=2))
    assert ([view.id for view in first.devices], first.total) == (ids[:2], 5)
    chosen = house.fleet.lists.page(DeviceQuery("n=0"))
    assert (len(chosen.devices), chosen.total) == (3, 3)
    after = Place(0, "", chosen.devices[0].id)
    rest = house.fleet.lists.page(DeviceQuery("n=0", after=after)).devices
    assert [view.id for view in rest] == [view.id for view in chosen.devices[1:]]


@pytest.mark.parametrize("selector", ["", "free_mb>1", "model.digits"])
def test_a_page_costs_as_many_queries_as_one_device(house: House, selector: str) -> None:
    running = ModelState(model="digits", phase=Phase.COMMITTED, active_target=f"digits/1.0.0/{PROFILE}.bundle")
    for _ in range(3):
        device = house.device()
        house.fleet.receiver.take_state(device.id, state(device.id, gen=1, models=[running]))
    costs = []
    with heard(house.db) as sent:
        for limit in (1, 5):
            sent.clear()
            found = house.fleet.lists.page(DeviceQuery(selector, limit=limit)).devices
            costs.append((len(found), len(sent)))
    assert [found for found, _ in costs] == [1, 3]
    assert costs[0][1] == costs[1][1]


def test_devices_of_a_release(house: House) -> None:
    wanted, running = house.device(), house.device({**FACTS})
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    house.fleet.deployer.deploy(ref, device=wanted.id)
    active = ModelState(model="digits", phase=Phase.COMMITTED, active_target=f"digits/1.0.0/{PROFILE}.bundle")
    house.fleet.receiver.take_state(running.id, state(running.id, gen=1, models=[active]))
    found = {one.device: one for one in house.fleet.reader.release_devices(ref)}
    assert (found[wanted.id].wanted, found[wanted.id].active, found[wanted.id].state) == (True, False, "offered")
    assert (found[running.id].wanted, found[running.id].active, found[running.id].state) == (False, True, "healthy")
    assert house.fleet.reader.release_devices(ReleaseRef.parse("digits@2")) == []


def test_offers_are_what_the_document_names(house: House) -> None:
    device = house.device()
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    assert house.fleet.documents.offered_to(device.id) == []
    house.fleet.deployer.deploy(ref, selector="")
    bundle = house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    assert {blob.sha256 for blob in house.fleet.documents.offered_to(device.id)} == {bundle.sha256, bundle.leaves}
    house.fleet.revocation.revoke(device.id)
    assert house.fleet.documents.offered_to(device.id) == []
