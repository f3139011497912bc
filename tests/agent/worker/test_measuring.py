"""Energy of a measurement, from what boards have: counters, sensors, a battery, or nothing."""

from pathlib import Path

import pytest

from edgefleet_agent.worker.observe.benchmark import EnergyMeter


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_whole_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    for name, value in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 900_000)):
        put(tmp_path, f"class/powercap/{name}/energy_uj", f"{value}\n")
    put(tmp_path, "class/hwmon/hwmon0/power1_input", "7000000\n")
    meter = EnergyMeter(tmp_path)
    put(tmp_path, "class/powercap/intel-rapl:0/energy_uj", "3000000\n")
    put(tmp_path, "class/powercap/intel-rapl:0:0/energy_uj", "9900000\n")
    assert meter.joules(2.0) == pytest.approx(2.0)
    put(tmp_path, "class/powercap/intel-rapl:0/energy_uj", "10\n")
    assert meter.joules(2.0) is None  # the counter began anew


def test_power_sensors_are_averaged_over_the_time(tmp_path: Path) -> None:
    put(tmp_path, "class/hwmon/hwmon2/power1_input", "2000000\n")
    meter = EnergyMeter(tmp_path)
    put(tmp_path, "class/hwmon/hwmon2/power1_input", "4000000\n")
    assert meter.joules(2.0) == pytest.approx(6.0)


def test_a_battery_tells_only_while_it_discharges(tmp_path: Path) -> None:
    put(tmp_path, "class/power_supply/BAT0/power_now", "5000000\n")
    put(tmp_path, "class/power_supply/BAT0/status", "Charging\n")
    assert EnergyMeter(tmp_path).joules(1.0) is None
    put(tmp_path, "class/power_supply/BAT0/status", "Discharging\n")
    assert EnergyMeter(tmp_path).joules(1.0) == pytest.approx(5.0)


def test_a_board_without_sensors_tells_nothing(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules(1.0) is None
    put(tmp_path, "class/hwmon/hwmon0/energy1_input", "not a number\n")
    assert EnergyMeter(tmp_path).joules(1.0) is None
