"""Figures of fleet and models at `/metrics`: what they say, that they do not grow with the fleet, and what a look costs."""

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgefleet_server.access.model import Role
from edgefleet_server.composition.container import build_parts
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.tables import FleetDevice
from edgefleet_server.objectives import openslo
from edgefleet_server.objectives.model import BudgetState, Indicator, Slo
from edgefleet_server.observability.fleet_figures import figure_table
from tests.server.observability.fleets import add_devices, make_fleet
from tests.server.observability.reports import BAD, report
from tests.support.servers import ApiHouse

Samples = dict[str, dict[tuple[str, ...], float]]


def samples_of(text: str) -> Samples:
    """Return the values of an exposition by sample name and values of labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def scraped(house: ApiHouse) -> str:
    """Return what `/metrics` says when nothing is kept from before."""
    house.clock.turn(seconds=60)
    answer = house.client(Role.VIEWER).get("/metrics")
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_the_fleet_is_counted(any_house: ApiHouse) -> None:
    make_fleet(any_house, 100)
    found = samples_of(scraped(any_house))
    assert found["edgefleet_devices"] == {("online",): 95, ("offline",): 5, ("unknown",): 0, ("revoked",): 0}
    assert found["edgefleet_devices_away"] == {(): 5}
    assert found["edgefleet_profile_devices"] == {("generic-x86_64-ort",): 50, ("rpi4-ort",): 50}
    assert found["edgefleet_group_devices"] == {(f"site-{one}",): 10 for one in range(10)}
    assert found["edgefleet_group_devices_away"][("site-3",)] == 5
    assert sum(found["edgefleet_model_devices"].values()) == 100
    assert found["edgefleet_model_updates"][("parts", "failed")] == 2
    assert found["edgefleet_model_updates"][("digits", "failed")] == 0, "a series from the beginning"
    assert found["edgefleet_devices_low_disk"] == {(): 1}
    assert found["edgefleet_devices_certificate_ends"] == {(): 1}
    assert found["edgefleet_bundles"][("digits", "1.0.0")] == 0
    assert found["edgefleet_alerts"][("device_offline", "warning", "firing")] == 0
    assert found["edgefleet_data_disk_free_bytes"][()] > 0
    assert set(found["edgefleet_metadata_end_timestamp_seconds"]) >= {("root",), ("timestamp",)}


def test_names_of_models_and_groups_need_a_token(house: ApiHouse) -> None:
    make_fleet(house, 20)
    without = house.client().get("/metrics")
    assert without.status_code == 200
    named = {figure.name for figure in figure_table.FIGURES}
    assert not named & set(samples_of(without.text)), "only figures of the process"
    assert "edgefleet_conversion_jobs" in samples_of(without.text)
    assert house.client().get("/metrics", headers={"authorization": "Bearer edg_wrong"}).status_code == 401


def test_series_do_not_grow_with_devices(house: ApiHouse) -> None:
    make_fleet(house, 100)
    scraped(house)  # a request itself has series, once it is answered
    few = scraped(house)
    with house.parts.db.session() as session:
        add_devices(house, session, 100, 9_900)
    many = scraped(house)
    counts = [sum(not line.startswith("#") for line in text.splitlines()) for text in (few, many)]
    assert counts[1] == pytest.approx(counts[0], rel=0.05)
    assert samples_of(many)["edgefleet_devices"][("online",)] == 9_500
    assert samples_of(many)["edgefleet_model_updates"][("parts", "failed")] == 200


def test_what_models_did_since_ever(any_house: ApiHouse) -> None:
    house, telemetry = any_house, any_house.parts.telemetry
    make_fleet(house, 20)
    now_s = house.clock.now().timestamp()
    report(telemetry, "dev-000000", "digits", "1.0.0", seq=1, now_s=now_s)
    report(telemetry, "dev-000010", "digits", "1.0.0", seq=1, now_s=now_s)  # of the same site
    report(telemetry, "dev-000002", "digits", "1.1.0", seq=1, now_s=now_s)
    report(telemetry, "dev-000002", "digits", "9.9.9", seq=2, now_s=now_s)
    report(telemetry, "dev-000002", "made-up", "1.0.0", seq=3, now_s=now_s)
    report(telemetry, "dev-000002", "digits", "1.1.0", seq=4, now_s=now_s, lane="candidate")
    found = samples_of(scraped(house))
    assert found["edgefleet_model_predictions_total"] == {("digits", "1.0.0"): 200, ("digits", "1.1.0"): 100}
    assert found["edgefleet_model_errors_total"][("digits", "1.0.0")] == 2 * BAD["errors"]
    assert found["edgefleet_model_timeouts_total"][("digits", "1.0.0")] == 2 * BAD["timeouts"]
    assert found["edgefleet_model_not_finite_total"][("digits", "1.0.0")] == 2 * BAD["nonfinite"]
    assert found["edgefleet_model_crashes_total"][("digits", "1.0.0")] == 2 * BAD["crashes"]
    buckets = found["edgefleet_model_latency_seconds_bucket"]
    assert [buckets[le, "digits", "1.0.0"] for le in ("0.0025", "0.005", "+Inf")] == [0, 200, 200]
    assert found["edgefleet_model_latency_seconds_count"]["digits", "1.0.0"] == 200
    assert found["edgefleet_model_latency_seconds_sum"]["digits", "1.0.0"] == pytest.approx(0.6, rel=0.01)
    of_groups = found["edgefleet_group_model_predictions_total"]
    assert of_groups == {("site-0", "digits"): 200, ("site-2", "digits"): 200}, "with the version that nobody knows"


def test_objectives_show_what_is_left(house: ApiHouse) -> None:
    make_fleet(house, 20)
    document = openslo.document_of(Slo("digits-works", "digits", Indicator.SUCCESS, 0.9, 30 * 86_400))
    house.parts.objectives.put("digits-works", document, "ann")
    now_s = house.clock.now().timestamp()
    report(house.parts.telemetry, "dev-000000", "digits", "1.0.0", seq=1, now_s=now_s)
    found = samples_of(scraped(house))
    view = house.parts.objectives.slo("digits-works").slo
    assert found["edgefleet_slo_target_ratio"] == {("digits", "digits-works"): 0.9}
    assert view.left is not None
    assert found["edgefleet_slo_budget_left_ratio"] == {("digits", "digits-works"): pytest.approx(view.left)}
    states = {status: value for (_model, _slo, status), value in found["edgefleet_slo_state"].items()}
    assert states == {state.value: float(state is view.state) for state in BudgetState}


def test_devices_drift_as_long_as_their_state_says_so(house: ApiHouse) -> None:
    make_fleet(house, 20)
    with house.parts.db.session() as session:
        for device, drift in (
            ("dev-000000", {"digits": ["x.1"], "made-up": ["x.1"]}),
            *((f"dev-00000{one}", {"digits": ["x.1"]}) for one in (2, 5, 6, 7)),
        ):
            session.get_one(FleetDevice, device).drift = drift
        now = house.clock.now()
        session.get_one(FleetDevice, "dev-000002").revoked_at = now
        session.get_one(FleetDevice, "dev-000005").suspect_since = now
        for device, hours in (("dev-000006", 3), ("dev-000007", 1)):
            away = session.get_one(FleetDevice, device)
            away.is_online, away.offline_since = False, now - timedelta(hours=hours)
    for device, psi in (("dev-000000", 0.4), ("dev-000002", 0.6), ("dev-000004", 0.8)):
        house.parts.fleet.feed.add([NewEvent("drift", device, "digits", detail={"signal": "x.1", "psi": psi})])
    found = samples_of(scraped(house))
    assert found["edgefleet_model_drifting_devices"] == {("digits",): 2, ("parts",): 0}, "as alerts count them"
    assert found["edgefleet_model_drift_effect_ratio"] == {("digits",): 0.4, ("parts",): 0}


def test_every_process_says_the_same_and_counters_never_fall(house: ApiHouse) -> None:
    make_fleet(house, 20)
    before: Samples = {}
    for seq in range(1, 4):
        report(house.parts.telemetry, "dev-000000", "digits", "1.0.0", seq=seq, now_s=house.clock.now().timestamp())
        now = samples_of(scraped(house))
        for figure in (one for one in figure_table.FIGURES if one.kind is not figure_table.Kind.GAUGE):
            for name in (figure.name, f"{figure.name}_bucket", f"{figure.name}_sum", f"{figure.name}_count"):
                for labels, value in before.get(name, {}).items():
                    assert now[name][labels] >= value, (name, labels)
        before = now
        house.clock.turn(days=20)
        house.parts.telemetry.prune(house.clock.now())
    other = build_parts(house.settings, house.clock, is_turned=True)
    said = samples_of(other.metrics.text(with_fleet=True).decode())
    own = samples_of(scraped(house))
    names = {name for name in said if name.startswith(("edgefleet_model", "edgefleet_group", "edgefleet_devices"))}
    assert len(names) > 20
    assert {name: said[name] for name in names} == {name: own[name] for name in names}
    other.db.dispose()


def test_no_label_names_a_device() -> None:
    known = {"group", "model", "version", "status", "profile", "rule", "severity", "role", "slo"}
    assert {label for figure in figure_table.FIGURES for label in figure.labels} <= known


def test_what_was_loaded_is_kept_for_some_seconds(house: ApiHouse) -> None:
    make_fleet(house, 20)
    before = samples_of(scraped(house))["edgefleet_devices"]
    with house.parts.db.session() as session:
        add_devices(house, session, 20, 10)
    assert samples_of(house.client(Role.VIEWER).get("/metrics").text)["edgefleet_devices"] == before
    assert samples_of(scraped(house))["edgefleet_devices"] != before


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_promtool_finds_nothing_to_blame(house: ApiHouse, tmp_path: Path) -> None:
    make_fleet(house, 20)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped(house), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
