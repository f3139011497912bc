"""Names and units of a device's figures: one table for pages, commands and charts."""

import pytest

from edgefleet_cli.render import format as cli_format
from edgefleet_profiles import number_format
from edgefleet_protocol.messages import SystemFigures
from edgefleet_server.dashboard.core import filters
from edgefleet_server.telemetry.rollups.totals import FIGURES
from edgefleet_terms.device_figures import (
    MODEL_FIGURES,
    SYSTEM_FIGURES,
    figure_name,
    figure_text,
    size_text,
    size_unit,
    span_text,
)


def test_every_figure_that_a_device_reports_or_the_server_keeps_has_a_name() -> None:
    assert {*SystemFigures.__struct_fields__, *FIGURES} <= SYSTEM_FIGURES.keys()
    names = [one.name for one in (*SYSTEM_FIGURES.values(), *MODEL_FIGURES.values())]
    assert all(name[:1].isupper() and "_" not in name for name in names)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("cpu_ratio", 0.9917, "99%"),
        ("cpu_ratio", 0.031, "3.1%"),
        ("cpu_ratio", 0.0, "0%"),
        ("online_ratio", 0.9999, "99.9%"),
        ("online_ratio", 1.0, "100%"),
        ("load_1m", 1.5, "1.50"),
        ("temperature_celsius", 84.2, "84 °C"),
        ("agent_rss_bytes", 35_233_218, "33.6 MiB"),
        ("disk_free_bytes", 1023, "1023 B"),
        ("net_rx_bytes_per_s", 2048.0, "2.0 KiB/s"),
        ("uptime_s", 3 * 86_400, "3 d"),
        ("p95_ms", 9.876, "9.88 ms"),
        ("p95_ms", 96.2, "96 ms"),
        ("requests", 12, "12"),
        ("fan_rpm", 12, "12"),
        ("agent_rss_bytes", -1, ""),
        ("temperature_celsius", None, ""),
    ],
)
def test_a_figure_has_its_unit_and_what_is_not_known_is_no_number(key: str, value: float | None, shown: str) -> None:
    assert figure_text(key, value) == shown


@pytest.mark.parametrize(
    ("count", "unit", "length"),
    [(0, "B", 1), (1023, "B", 1), (1024, "KiB", 1024), (3 * 1024**3, "GiB", 1024**3), (1024**6, "TiB", 1024**4)],
)
def test_a_size_has_the_largest_binary_unit_that_it_fills(count: float, unit: str, length: int) -> None:
    assert size_unit(count) == (unit, length)
    assert size_text(count).endswith(f" {unit}")


def test_pages_commands_and_reports_write_sizes_alike() -> None:
    for count in (0, 1023, 1_200_000, 31_240_000_000):
        assert cli_format.size(count) == filters.size(count) == number_format.size(count) == size_text(count)


def test_a_figure_of_a_newer_device_is_named_by_its_key() -> None:
    assert (figure_name("agent_rss_bytes"), figure_name("fan_rpm")) == ("Agent memory", "fan rpm")


def test_less_than_a_second_is_no_other_unit() -> None:
    assert (span_text(0.2), span_text(90), span_text(7200)) == ("0 s", "2 min", "2 h")
