"""Costs over the API, from bytes that were counted and windows that devices sent, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import OperationalError

from edgefleet_server.access.model import Role
from edgefleet_server.conversion.model import JobState
from edgefleet_server.costing import store, traffic_ledger
from edgefleet_server.costing.model import CostBy, Kind
from edgefleet_server.costing.traffic_ledger import OTHER, TrafficLedger
from tests.server.conftest import KINDS, new_database
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.shelf import shelve
from tests.server.telemetry.sending_fleet import WINDOW_S, SendingFleet, message

PRICES = {
    "currency": "EUR", "down_gb": 100, "up_gb": 200, "device_hour": 0.5, "kwh": 0.3, "conversion_hour": 2,
    "stored_gb_month": 5, "groups": [{"group": "halls", "up_gb": 1000}],
}  # fmt: skip
CANDIDATES = [
    {"id": "fp32", "bytes": 40_960, "verdict": "passed", "metric": {"drop": 0.0}},
    {"id": "int8-static", "bytes": 10_240, "verdict": "passed", "metric": {"drop": 0.002}},
    {"id": "int4-weights", "bytes": 5_000, "verdict": "rejected", "metric": {"drop": 0.2}},
]


@pytest.fixture(scope="module", params=KINDS)
def sending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SendingFleet]:
    """Two devices in a hall and one elsewhere that answered for an hour and got a bundle. Tests only look at it, or set prices."""
    folder = tmp_path_factory.mktemp("costing")
    with new_database(request.param, folder, is_empty=False) as url:
        made = SendingFleet(folder / "server", url=url)
        made.join(2, "hall")
        made.join(1, "kyoto")
        made.parts.fleet.groups.create("halls", "site=hall", "ann")
        made.parts.fleet.groups.create("fast", f"profile={ORT}", "ann")
        made.fleet.house.clock.turn(seconds=120)
        _go(made, _shelved(made.fleet))
        yield made
        made.fleet.close()


def _shelved(fleet: Fleet) -> str:
    while (job := fleet.parts.conversion.claim("test")[0]) is not None:
        fleet.parts.conversion.finish(job, JobState.DONE)
    report = {"profiles": [{"profile": ORT, "candidates": CANDIDATES, "bundle": {"candidate": "fp32"}}]}
    shelve(fleet, "gauge@1.0.0", ORT, report=fleet.parts.registry.put_blob_bytes(json.dumps(report).encode()))
    bundle = fleet.parts.registry.release(fleet.parts.registry.resolve("gauge@1.0.0")).bundles[0]
    return str(bundle.sha256)


def _go(made: SendingFleet, bundle: str) -> None:
    traffic: TrafficLedger = made.parts.costing.traffic
    made.go_on(4)
    first, second, third = made.devices
    begin = int(made.fleet.house.clock.now().timestamp()) - WINDOW_S
    measured = message(99, first.id, begin)
    window = msgspec.structs.replace(measured.windows[0], lane="measure", joules_per_answer=0.5)
    made.parts.telemetry.ingest([msgspec.structs.replace(measured, seq=7, windows=[window])])
    for one in (first, second, third):
        traffic.up_windows(one.id, ["digits", "digits", "nonsense"], 1001)
    traffic.up(first.id, Kind.CAPTURES, "digits", 5_000)
    traffic.up(third.id, Kind.PREDICTIONS, "digits", 300)
    traffic.down(first.id, bundle, 40_000)
    traffic.down(third.id, bundle, 40_000)
    traffic.down(third.id, "f" * 64, 9)
    traffic.write()


def ask(sending: SendingFleet, role: Role = Role.VIEWER, status: int = 200, **query: Any) -> dict[str, Any]:
    answer = sending.fleet.house.client(role).get("/api/v1/cost", params=query)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def line(found: dict[str, Any], name: str) -> dict[str, Any]:
    (one,) = [one for one in found["lines"] if one["name"] == name]
    assert isinstance(one, dict)
    return one


def test_models_cost_bytes_hours_energy_and_storage(sending: SendingFleet) -> None:
    found = ask(sending)
    assert [one["name"] for one in found["lines"]] == [OTHER, "digits", "gauge"]
    digits, gauge, other = line(found, "digits"), line(found, "gauge"), line(found, OTHER)
    assert digits["telemetry_bytes"] == 3 * (334 + 334)
    assert (digits["capture_bytes"], digits["prediction_bytes"]) == (5_000, 300)
    assert (gauge["down_bytes"], other["down_bytes"], other["telemetry_bytes"]) == (80_000, 9, 3 * 333)
    assert (digits["device_hours"], digits["answers"]) == (3.0, 3 * 4 * 900)
    assert (digits["joules"], digits["measured_answers"]) == (0.5 * 3 * 4 * 900, 3 * 4 * 900)
    assert gauge["stored_bundle_bytes"] > 900
    assert gauge["stored_source_bytes"] == len("source of gauge@1.0.0")
    assert gauge["conversion_s"] is not None
    assert found["is_sum"]
    assert found["total"]["up_bytes"] == sum(one["up_bytes"] for one in found["lines"]) == 3 * 1001 + 5_300
    assert (found["prices_from"], found["total"]["money"]) == ("none", None)
    assert found["counted_since"] is not None


def test_groups_overlap_and_the_answer_says_so(sending: SendingFleet) -> None:
    found = ask(sending, by="group")
    assert [one["name"] for one in found["lines"]] == ["fast", "halls"]
    fast, halls = line(found, "fast"), line(found, "halls")
    assert not found["is_sum"]
    assert (fast["up_bytes"], halls["up_bytes"]) == (3 * 1001 + 5_300, 2 * 1001 + 5_000)
    assert found["total"]["up_bytes"] == fast["up_bytes"]
    assert (halls["device_hours"], halls["stored_bytes"], halls["conversion_s"]) == (2.0, None, None)
    assert [one["name"] for one in ask(sending, by="group", group="halls")["lines"]] == ["halls"]
    assert line(ask(sending, group="halls"), "digits")["device_hours"] == 2.0


def test_one_model_alone(sending: SendingFleet) -> None:
    found = ask(sending, model="gauge")
    assert [one["name"] for one in found["lines"]] == ["gauge"]
    assert found["total"]["down_bytes"] == 80_000
    assert ask(sending, model="nobody", status=404)["code"] == "model.unknown"
    assert ask(sending, group="nobody", status=404)["code"] == "group.unknown"
    assert ask(sending, since="2027-01-01T00:00:00Z", status=422)["code"] == "cost.bad_span"


def test_a_smaller_bundle_and_longer_windows_would_save(sending: SendingFleet) -> None:
    found = ask(sending)
    (saving,) = found["smaller_bundles"]
    assert (saving["release"], saving["candidate"], saving["smaller"]) == ("gauge@1.0.0", "fp32", "int8-static")
    assert (saving["sent_bytes"], saving["saved_bytes"], saving["saved"]) == (80_000, 60_000, None)
    assert (found["bundles_sent"], found["compared"]) == (1, 1)
    windows = [one for one in found["longer_windows"] if one["model"] == "digits"]
    assert [(one["times"], one["windows"], one["saved_bytes"]) for one in windows] == [(2, 6, 1002), (4, 6, 1503)]
    assert windows[0]["window_s"] == WINDOW_S


def test_money_by_a_price_file_that_is_set_or_given(sending: SendingFleet) -> None:
    viewer, operator = sending.fleet.house.client(Role.VIEWER), sending.fleet.house.client(Role.OPERATOR)
    given = viewer.post("/api/v1/cost:price", json={"prices": PRICES, "model": "digits"}).json()
    money = given["total"]["money"]
    assert (given["prices_from"], given["currency"]) == ("given", "EUR")
    halls, kyoto = 2 * 668 + 5_000, 668 + 300
    assert money["up"] == pytest.approx((halls * 1000 + kyoto * 200) / 1e9)
    assert (money["device_hours"], money["energy"]) == (1.5, pytest.approx(5400 / 3.6e6 * 0.3))
    assert money["total"] == pytest.approx(
        sum(one for key, one in money.items() if key not in {"total", "unpriced_bytes"})
    )
    assert viewer.get("/api/v1/prices").json()["code"] == "cost.no_prices"
    assert viewer.put("/api/v1/prices", json=PRICES).status_code == 403
    refused = operator.put("/api/v1/prices", json=PRICES | {"down_gb": "much"})
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.down_gb")
    made = operator.put("/api/v1/prices", json=PRICES)
    assert made.status_code == 200
    stale = {"if-match": '"0"'}
    assert operator.put("/api/v1/prices", json=PRICES, headers=stale).status_code == 412
    assert ask(sending, model="digits")["total"]["money"] == money
    assert viewer.get("/api/v1/prices").json()["prices"]["groups"] == [
        {"group": "halls", "down_gb": None, "up_gb": 1000}
    ]
    assert operator.delete("/api/v1/prices", headers={"if-match": made.headers["etag"]}).status_code == 204
    assert operator.delete("/api/v1/prices").status_code == 404
    assert ask(sending)["prices_from"] == "none"


def test_counts_are_added_by_hour_and_day_and_old_ones_go(sending: SendingFleet) -> None:
    parts = sending.parts
    now = parts.clock.now()
    traffic: TrafficLedger = parts.costing.traffic

    def of_days() -> int:
        with parts.db.read() as session:
            found = store.traffic(session, 86_400, 0, int(now.timestamp()) + 10**6, "gauge")
        return sum(one.bytes for one in found)

    before = of_days()
    bundle = parts.registry.release(parts.registry.resolve("gauge@1.0.0")).bundles[0].sha256
    traffic.down(sending.devices[0].id, bundle, 11)
    traffic.write()
    traffic.write()
    assert of_days() == before + 11
    with parts.db.session() as session:
        store.add(session, {(scale, 0, "gauge", "bundle", "", 0): (5, 1) for scale in (3600, 86_400)})
    assert parts.costing.book.prune(now) == 2
    assert of_days() == before + 11
    with parts.db.session() as session:  # as it was: tests share the fleet
        store.add(
            session,
            {
                (scale, int(now.timestamp()) // scale * scale, "gauge", "bundle", str(bundle), _set_of(sending)): (
                    -11,
                    -1,
                )
                for scale in (3600, 86_400)
            },
        )


def _set_of(sending: SendingFleet) -> int:
    digest = traffic_ledger._digest(("fast", "halls"))
    with sending.parts.db.read() as session:
        return store.group_set_ids(session, [digest])[digest]


def test_a_database_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path / "server")
    fleet.release("digits@1.0.0", ORT)
    traffic: TrafficLedger = fleet.parts.costing.traffic
    traffic.up("d-1", Kind.CAPTURES, "digits", 10)
    real = store.add

    def away(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("away"))

    monkeypatch.setattr(store, "add", away)
    fleet.house.clock.turn(seconds=61)
    traffic.write_due()
    traffic.up("d-1", Kind.CAPTURES, "digits", 5)
    monkeypatch.setattr(store, "add", real)
    traffic.write_due()  # not due yet
    assert fleet.parts.costing.book.report().total.capture_bytes == 0
    fleet.house.clock.turn(seconds=61)
    traffic.write_due()
    assert fleet.parts.costing.book.report().total.capture_bytes == 15
    fleet.close()


def test_what_comes_in_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path / "server")
    fleet.release("digits@1.0.0", ORT)
    for name in ("one", "two"):
        fleet.parts.fleet.groups.create(name, f"site={name}", "ann")
    devices = [fleet.device("cam-", ORT, {"site": site}) for site in ("one", "two")]
    monkeypatch.setattr(traffic_ledger, "MOST_SETS", 2)
    monkeypatch.setattr(traffic_ledger, "MOST_PENDING", 2)
    traffic: TrafficLedger = fleet.parts.costing.traffic
    for one in (*devices, *devices):
        traffic.up(one.id, Kind.CAPTURES, "digits", 10)
    traffic.up(devices[0].id, Kind.CAPTURES, "x" * 1_000, 10)  # no room
    traffic.write()
    fleet.house.clock.turn(hours=1)
    lines = fleet.parts.costing.book.report(by=CostBy.GROUP).lines
    assert sum(one.capture_bytes for one in lines) == 40
    assert lines[-1].name == ""
    assert len(lines) == 2
    fleet.close()


def test_a_device_that_names_many_models_crowds_out_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path / "server")
    fleet.release("digits@1.0.0", ORT)
    monkeypatch.setattr(traffic_ledger, "MOST_NAMES", 3)
    monkeypatch.setattr(traffic_ledger, "MOST_PENDING", 5)
    traffic: TrafficLedger = fleet.parts.costing.traffic
    for at in range(20):
        traffic.up("d-1", Kind.CAPTURES, f"m-{at}", 10)
    traffic.up("d-1", Kind.CAPTURES, "x" * 100_000, 10)
    traffic.up("d-2", Kind.CAPTURES, "digits", 10)
    assert max(len(name) for _, _, _, name in traffic._pending) <= traffic_ledger.MOST_NAME_CHARS
    traffic.write()
    found = fleet.parts.costing.book.report(since=fleet.parts.clock.now() - timedelta(hours=1)).lines
    assert {one.name: one.capture_bytes for one in found} == {"digits": 10, OTHER: 210}
    fleet.close()


def test_a_message_without_windows_is_of_no_model(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    traffic: TrafficLedger = fleet.parts.costing.traffic
    traffic.up_windows("d-1", [], 70)
    traffic.write()
    (found,) = fleet.parts.costing.book.report(since=fleet.parts.clock.now() - timedelta(hours=1)).lines
    assert (found.name, found.telemetry_bytes) == (OTHER, 70)
    fleet.close()
