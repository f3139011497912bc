"""What rollouts ask of many devices at once: documents, wishes, reports."""

import datetime as dt
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.desired import (
    DESIRED_TYPE,
    CaptureRequest,
    Deadlines,
    Desired,
    Ref,
    TelemetryRequest,
    decode_desired,
)
from edgefleet_protocol.ids import DeviceId, ModelName, ProfileName
from edgefleet_protocol.messages import ErrorClass, ModelState, Phase, Presence, State
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.model import ActiveRequest, ModelChange, SignedDesired, WantedRef
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.reported.model import ModelReport
from edgefleet_server.fleet.reported.reader import report_of
from tests.server.fleet.house import PROFILE, START, House
from tests.support.statements import heard

DIGITS, FACES = ModelName("digits"), ModelName("faces")


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


def ref(name: str = "digits", version: str = "1.1.0", **rules: Any) -> Ref:
    """Return a bundle's reference."""
    return Ref(target=f"{name}/{version}/{PROFILE}.bundle", sha256="a" * 64, length=1, **rules)


def document_of(house: House, device: DeviceId) -> Desired:
    """Return a device's document after checking its signature."""
    signed = house.fleet.documents.of_device(device)
    assert signed is not None
    return decode_desired(verify_envelope(signed.envelope, DESIRED_TYPE, [house.signing.director_key()]))


def statements(house: House, act: Callable[[], object]) -> int:
    """Return how many statements an act sends."""
    with heard(house.db) as sent:
        act()
    return len(sent)


def test_a_batch_signs_one_document_a_device(house: House) -> None:
    a, b = sorted(house.device().id for _ in range(2))
    heard: list[list[SignedDesired]] = []
    house.fleet.desired.subscribe(lambda documents: heard.append(list(documents)))
    wish = ref(rollout="r-1", attempt=2, deadlines=Deadlines(download_s=1, apply_s=2, verify_s=3))
    signed = house.fleet.desired.set_models(
        [ModelChange(b, DIGITS, wish), ModelChange(a, DIGITS, wish), ModelChange(a, FACES, ref("faces"))]
    )
    assert [(one.device, one.gen) for one in signed] == [(a, 2), (b, 2)]
    assert heard == [signed]
    assert set(document_of(house, a).models) == {"digits", "faces"}
    assert document_of(house, b).models["digits"].active == wish
    assert house.fleet.desired.set_models([]) == []


def test_a_model_can_be_dropped_and_telemetry_be_kept(house: House) -> None:
    device = house.device().id
    live = TelemetryRequest(profile="live")
    house.fleet.desired.set_models([ModelChange(device, DIGITS, ref(), live), ModelChange(device, FACES, ref("faces"))])
    house.fleet.desired.set_models([ModelChange(device, DIGITS, None)])
    document = document_of(house, device)
    assert (set(document.models), document.telemetry) == ({"faces"}, live)
    house.fleet.desired.set_models([ModelChange(device, ModelName("none"), None, TelemetryRequest())])
    document = document_of(house, device)
    assert (set(document.models), document.telemetry, document.gen) == ({"faces"}, TelemetryRequest(), 4)


def test_another_attempt_is_a_new_document(house: House) -> None:
    device = house.device().id
    house.fleet.desired.set_models([ModelChange(device, DIGITS, ref(attempt=1))])
    house.fleet.desired.set_models([ModelChange(device, DIGITS, ref(attempt=2))])
    active = document_of(house, device).models["digits"].active
    assert active is not None
    assert active.attempt == 2
    _, is_new = house.fleet.desired.set_active({device: ActiveRequest(DIGITS, ref(attempt=3))})[device]
    assert not is_new


def test_unknown_and_revoked_devices_are_left_out(house: House) -> None:
    live, revoked = house.device().id, house.device().id
    house.fleet.revocation.revoke(revoked)
    changes = [ModelChange(one, DIGITS, ref()) for one in (DeviceId("d-none"), revoked, live)]
    assert [one.device for one in house.fleet.desired.set_models(changes)] == [live]
    assert house.fleet.documents.of_device(revoked) is None
    with house.db.read() as session:
        assert desired_store.desired_row(session, revoked) is None


def test_nothing_of_a_failed_transaction_is_said(house: House) -> None:
    device = house.device().id
    heard: list[SignedDesired] = []
    house.fleet.desired.subscribe(heard.extend)

    def fail() -> None:
        with house.db.session():
            house.fleet.desired.set_models([ModelChange(device, DIGITS, ref())])
            raise RuntimeError("the caller fails")

    with pytest.raises(RuntimeError, match="the caller fails"):
        fail()
    assert (heard, document_of(house, device).gen) == ([], 1)


def test_a_document_is_signed_above_what_the_device_reported(house: House) -> None:
    device = house.device().id
    with house.db.session() as session:
        row = store.device(session, device)
        assert row is not None
        row.reported_gen = 40
    assert [one.gen for one in house.fleet.desired.set_models([ModelChange(device, DIGITS, ref())])] == [41]


def test_many_devices_cost_as_many_statements_as_one(house: House) -> None:
    ids = [house.device().id for _ in range(12)]
    house.fleet.receiver.take_state(ids[0], State(device=ids[0], gen=1, boot_id="b", seq=1, ts=0, models=[]))
    for act, signs in (  # who signs documents is one more to ask, in each transaction (ADR 0115)
        (lambda some: house.fleet.desired.set_models([ModelChange(one, DIGITS, ref()) for one in some]), 1),
        (lambda some: house.fleet.offers.wants(some, DIGITS), 0),
        (lambda some: house.fleet.offers.reports_of(some, DIGITS), 0),
        (lambda some: house.fleet.offers.model_reports(some, DIGITS), 0),
    ):
        costs = [statements(house, lambda act=act, n=n: act(ids[:n])) for n in (1, 12)]  # type: ignore[misc]
        assert costs[0] == costs[1] <= 4 + signs, costs
    house.fleet.logging.set("faces", "ann", ratio=1.0, inputs=False, keep_days=30)
    changes = [ModelChange(one, DIGITS, ref()) for one in ids]
    with_log = [statements(house, lambda n=n: house.fleet.desired.set_models(changes[:n])) for n in (1, 12)]  # type: ignore[misc]
    assert with_log[0] == with_log[1] <= 5 + 1, with_log


def test_two_batches_at_once_do_not_wait_for_each_other_forever(house: House) -> None:
    ids = [house.device().id for _ in range(6)]
    failed: list[BaseException] = []

    def change(order: list[DeviceId]) -> None:
        try:
            for _ in range(5):
                house.fleet.desired.set_models([ModelChange(one, DIGITS, ref()) for one in order])
        except BaseException as error:  # noqa: BLE001  # shown by the test
            failed.append(error)

    threads = [threading.Thread(target=change, args=(order,)) for order in (ids, ids[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert {document_of(house, one).gen for one in ids} == {11}


def test_writers_of_every_kind_at_once_do_not_wait_for_each_other_forever(house: House) -> None:
    ids = [house.device(labels={"env": "prod"}).id for _ in range(6)]
    release = house.release("faces@1.0.0", bundles={PROFILE: b"bundle"})
    failed: list[BaseException] = []

    def roll(n: int) -> None:
        with house.db.session():
            house.fleet.hold.set([f"r-{n % 2}"], [])
            house.fleet.desired.set_models([ModelChange(one, DIGITS, ref(attempt=n + 1)) for one in reversed(ids)])
            house.fleet.feed.add([NewEvent("assignment", one, DIGITS, "r-1") for one in ids])

    def report(n: int) -> None:
        for one in ids:
            house.fleet.receiver.take_state(one, State(device=one, gen=n, boot_id="b", seq=n, ts=0, models=[]))
            house.fleet.receiver.take_presence(one, Presence(on=n % 2 == 0, conn_id=f"c{n}", boot_id="b", ts=0))

    acts: list[Callable[[int], object]] = [
        roll,
        report,
        lambda _n: house.fleet.deployer.deploy(release, selector="env=prod"),
        lambda _n: house.fleet.desired.resign_due(START + dt.timedelta(days=6)),
        lambda _n: house.fleet.receiver.forget_presence(),
        lambda n: house.fleet.edits.update(ids[n], {"n": str(n)}, None),
        lambda n: house.fleet.sampling.set(f"{n + 1:064x}", "test"),
    ]

    def run(act: Callable[[int], object]) -> None:
        try:
            for n in range(6):
                act(n)
        except BaseException as error:  # noqa: BLE001  # shown by the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    house.fleet.desired.resign_due(START)
    for one in ids:
        assert document_of(house, one).capture == CaptureRequest(key=f"{6:064x}"), (
            "no batch signed an older key for good"
        )
        active = document_of(house, one).models["digits"].active
        assert active is not None
        assert active.attempt == 6
        assert "faces" in document_of(house, one).models


def test_wants_say_what_documents_name(house: House) -> None:
    with_model, without, revoked = house.device().id, house.device().id, house.device().id
    house.fleet.desired.set_models([ModelChange(with_model, DIGITS, ref(rollout="r-1"))])
    house.fleet.revocation.revoke(revoked)
    asked = [with_model, without, revoked, DeviceId("d-none")]
    assert house.fleet.offers.wants(asked, DIGITS) == {
        with_model: WantedRef(ref(rollout="r-1"), 2),
        without: WantedRef(None, 1),
    }


def test_reports_say_what_devices_said(house: House) -> None:
    busy, silent, revoked = house.device().id, house.device().id, house.device().id
    house.fleet.receiver.take_presence(busy, Presence(on=True, conn_id="c", boot_id="b", ts=0))
    failed = ModelState(
        model="digits",
        phase=Phase.FAILED,
        active_target=f"digits/1.0.0/{PROFILE}.bundle",
        active_sha256="a" * 64,
        previous_sha256="b" * 64,
        wanted_sha256="c" * 64,
        attempt=3,
        gen=7,
        error_class=ErrorClass.GOLDEN,
        error_code="golden.mismatch",
        reason="1 of 4 differs",
        serving=True,
        rollout="r-1",
    )
    state = State(
        device=busy,
        gen=1,
        boot_id="b",
        seq=1,
        ts=0,
        models=[failed],
        refused_gen=9,
        refused_code="verify.expired",
        refused_reason="late",
    )
    house.fleet.receiver.take_state(busy, state)
    house.fleet.revocation.revoke(revoked)
    found = house.fleet.offers.reports_of([busy, silent, revoked, DeviceId("d-none")], DIGITS)
    assert found[busy] == ModelReport(
        device=busy,
        profile=ProfileName(PROFILE),
        status=DeviceStatus.ONLINE,
        last_seen=START,
        reported_gen=1,
        has_report=True,
        phase=Phase.FAILED,
        active_target=f"digits/1.0.0/{PROFILE}.bundle",
        active_sha256="a" * 64,
        previous_sha256="b" * 64,
        wanted_sha256="c" * 64,
        attempt=3,
        gen=7,
        rollout="r-1",
        error_class=ErrorClass.GOLDEN,
        error_code="golden.mismatch",
        reason="1 of 4 differs",
        serving=True,
        refused_gen=9,
        refused_code="verify.expired",
        refused_reason="late",
    )
    assert found[silent] == ModelReport(silent, ProfileName(PROFILE), DeviceStatus.UNKNOWN, None, 0)
    assert (found[revoked].is_revoked, found[revoked].status) == (True, DeviceStatus.REVOKED)
    assert set(found) == {busy, silent, revoked}
    wants = house.fleet.offers.wants([busy, silent, revoked], DIGITS)
    together = house.fleet.offers.model_reports([busy, silent, revoked, DeviceId("d-none")], DIGITS)
    assert together == {device: (said, wants.get(device)) for device, said in found.items()}
    other = house.fleet.offers.reports_of([busy], FACES)[busy]
    assert (other.has_report, other.phase, other.refused_gen, other.reported_gen) == (False, None, 9, 1)


ROW = SimpleNamespace(
    id="d-a",
    profile=PROFILE,
    is_online=None,
    last_seen=None,
    revoked_at=None,
    suspect_since=None,
    reported_gen=0,
    reported=None,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8)
    | st.sampled_from(["digits", "idle"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "phase", "models"]), inner),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {"model": st.just("digits"), "phase": st.sampled_from([*Phase]) | JSON},
    optional=dict.fromkeys(
        ("active_target", "active_sha256", "attempt", "gen", "error_class", "serving", "reason", "rollout"), JSON
    ),
)


@given(
    JSON
    | st.fixed_dictionaries(
        {"models": st.lists(ENTRY | JSON, max_size=3)}, optional={"refused_gen": JSON, "refused_code": JSON}
    )
)
def test_garbage_of_a_device_is_no_report(reported: Any) -> None:
    report = report_of(ROW, "digits", reported)
    assert report.has_report == isinstance(report.phase, Phase)
    assert report.error_class is None or isinstance(report.error_class, ErrorClass)
    for text in (report.active_target, report.active_sha256, report.rollout, report.reason, report.refused_code):
        assert isinstance(text, str)
    for number in (report.attempt, report.gen, report.refused_gen):
        assert type(number) is int
    assert type(report.serving) is bool
