"""How hot a device is and from where on its kernel acts on it, read from a made folder of the kernel's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.reporting.thermal_zone import ThermalZone
from edgefleet_protocol.heat_limits import CRITICAL_AT, THROTTLES_AT, heat_limits

PASSIVE, CRITICAL = "passive", "critical"


def zone(sys: Path, temp: str, *trips: tuple[str, str]) -> ThermalZone:
    folder = sys / "class" / "thermal" / "thermal_zone0"
    folder.mkdir(parents=True)
    (folder / "temp").write_text(f"{temp}\n", "ascii")
    for number, (kind, at) in enumerate(trips):
        (folder / f"trip_point_{number}_type").write_text(f"{kind}\n", "ascii")
        (folder / f"trip_point_{number}_temp").write_text(f"{at}\n", "ascii")
    return ThermalZone(sys)


def test_nothing_to_read_is_no_temperature_and_no_limit(tmp_path: Path) -> None:
    assert ThermalZone(tmp_path).celsius() == -1
    assert ThermalZone(tmp_path).limits() == {}


def test_the_lowest_trip_of_its_kind_counts(tmp_path: Path) -> None:
    trips = [(CRITICAL, "105000"), ("active", "60000"), (PASSIVE, "95500"), (PASSIVE, "83000"), ("hot", "70000")]
    found = zone(tmp_path, "48250", *trips)
    assert found.celsius() == pytest.approx(48.25)
    assert found.limits() == {THROTTLES_AT: 83.0, CRITICAL_AT: 105.0}


@pytest.mark.parametrize("at", ["0", "-274000", "", "hot", "250000", "\u0663\u0660", "9" * 1_000])
def test_a_trip_that_nobody_set_is_no_limit(tmp_path: Path, at: str) -> None:
    folder = tmp_path / "class" / "thermal" / "thermal_zone0"
    found = zone(tmp_path, "rubbish", (PASSIVE, "1"), (CRITICAL, "99000"))
    (folder / "trip_point_0_temp").write_bytes(at.encode())
    assert found.celsius() == -1
    (folder / "temp").write_bytes(b"9" * 1_000)
    assert found.celsius() == -1
    assert found.limits() == {CRITICAL_AT: 99.0}
    (folder / "trip_point_1_temp").unlink()
    assert found.limits() == {}


def test_an_unset_trip_does_not_hide_one_that_is_set(tmp_path: Path) -> None:
    assert zone(tmp_path, "20000", (PASSIVE, "0"), (PASSIVE, "91000")).limits() == {THROTTLES_AT: 91.0}


@pytest.mark.parametrize(
    "said", [True, "83", None, [83], float("nan"), float("inf"), -1, 0, 201, 10**400, {"celsius": 83}]
)
def test_what_a_device_claims_is_bounded(said: object) -> None:
    assert heat_limits({THROTTLES_AT: said, CRITICAL_AT: 200, "other": 9}) == {CRITICAL_AT: 200.0}
    assert heat_limits({}) == {}
