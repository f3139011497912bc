"""Figures of fleet and models at `/metrics`: what they say, that they do not grow with the fleet, and what a look costs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.access.model import Role
from edgefleet_server.observability.fleet_figures import figure_table
from edgefleet_server.observability.fleet_figures.values import distribution_of
from tests.server.observability.fleets import add_devices, make_fleet
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


def test_no_label_names_a_device() -> None:
    known = {"group", "model", "version", "status", "profile", "rule", "severity", "role"}
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


def test_a_sketch_becomes_a_histogram() -> None:
    sketch = LatencySketch()
    for value_s in (0.0005, 0.003, 0.003, 0.2, 99.0):
        sketch.add(value_s)
    found = distribution_of(sketch, 99.3)
    by_bound = dict(zip((*figure_table.LATENCY_BOUNDS_S, "inf"), found.counts, strict=True))
    assert [by_bound[one] for one in (0.001, 0.0025, 0.005, 0.1, 0.25, 10.0, "inf")] == [1, 1, 3, 3, 4, 4, 5]
