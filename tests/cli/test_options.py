"""Global options: anywhere on the line, flag before environment before context."""

from __future__ import annotations

import pytest

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import Color, Format, parse_duration_s, resolve
from edgefleet_cli.core.version import own_version
from tests.cli.conftest import Edgectl


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0), ("500ms", 0.5)]
)
def test_durations_are_understood(given: str, seconds: float) -> None:
    assert parse_duration_s(given) == seconds


@pytest.mark.parametrize("given", ["", "ten", "-5s", "5 m", "1w", "1e3"])
def test_what_is_no_duration_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        parse_duration_s(given)


def test_a_flag_beats_the_environment_and_the_environment_beats_the_default() -> None:
    environ = {"EDGECTL_OUTPUT": "yaml", "EDGECTL_SERVER": "http://a", "EDGECTL_TIMEOUT": "2m"}
    assert resolve({}, environ).output is Format.YAML
    assert resolve({"output": Format.CSV}, environ).output is Format.CSV
    assert resolve({"server": "http://b"}, environ).server == "http://b"
    assert resolve({}, environ).timeout_s == 120.0
    assert resolve({}, {}).color is Color.AUTO


def test_a_bad_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(UsageError, match="EDGECTL_OUTPUT"):
        resolve({}, {"EDGECTL_OUTPUT": "xml"})


def test_global_options_work_before_and_after_the_command(edgectl: Edgectl) -> None:
    before = edgectl("-o", "json", "version")
    after = edgectl("version", "-o", "json")
    assert before.code == after.code == 0
    assert before.json == after.json
    assert set(before.json) == {"edgectl", "python", "platform"}


def test_every_command_has_help_with_the_global_options(edgectl: Edgectl) -> None:
    for command in (["publish"], ["deploy"], ["device", "enroll"], ["release", "show"], ["server", "start"], ["demo"]):
        ran = edgectl(*command, "--help")
        assert ran.code == 0
        assert "Global options" in ran.out


def test_version_is_one_line_without_a_server(edgectl_process: Edgectl) -> None:
    ran = edgectl_process("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"edgectl {own_version()}\n"
