"""Global options: anywhere on the line, flag before environment before context."""

from __future__ import annotations

import re

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


def test_a_help_lists_its_own_options_and_names_the_command_that_lists_the_global_ones(edgectl: Edgectl) -> None:
    for command in ("publish", "deploy", "device enroll", "release show", "server start", "demo", ""):
        ran = edgectl(*command.split(), "--help")
        assert ran.code == 0
        assert "Use edgectl options for global options." in ran.out
        assert "--no-input" not in ran.out
        assert not re.search(r"<\w+>", ran.out), "a type of Python is no word of the command line"
    told = edgectl("options").out
    for name in (
        "context",
        "server",
        "token",
        "output",
        "color",
        "no-input",
        "yes",
        "quiet",
        "verbose",
        "debug",
        "timeout",
    ):
        assert f"--{name}" in told


def test_the_commands_in_help_stand_in_groups(edgectl: Edgectl) -> None:
    shown = edgectl("--help").out
    titles = re.findall(r"^╭─ (\w+) ─", shown, re.MULTILINE)
    assert titles == ["Options", "Start", "Models", "Rollouts", "Fleet", "Admin"]
    assert "│ logs" not in shown


_MEANT = [
    ("device ls", "device list"),
    ("webhook rm", "webhook delete"),
    ("context delete", "context remove"),
    ("release describe", "release show"),
    ("model alias ls", "model alias list"),
    ("device why", "device explain"),
    ("device decommission", "device revoke"),
    ("rollout cancel", "rollout abort"),
    ("capture-key new", "capture-key create"),
    ("logs", "device logs"),
]


@pytest.mark.parametrize(("alias", "meant"), _MEANT)
def test_words_of_other_tools_and_older_versions_are_taken_and_not_listed(
    edgectl: Edgectl, alias: str, meant: str
) -> None:
    *nouns, verb = alias.split()
    assert f"│ {verb} " not in edgectl(*nouns, "--help").out
    told, wanted = edgectl(*alias.split(), "--help"), edgectl(*meant.split(), "--help")
    assert (told.code, wanted.code) == (0, 0)
    assert told.out.replace(f"edgectl {alias}", f"edgectl {meant}").split() == wanted.out.split()
    assert edgectl("-o", "json", *alias.split(), "--help").code == 0, "also after an option"


def test_a_mistyped_alias_is_suggested(edgectl: Edgectl) -> None:
    assert "did you mean 'describe'" in edgectl("device", "descibe").told()[0]


def test_version_is_one_line_without_a_server(edgectl_process: Edgectl) -> None:
    ran = edgectl_process("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"edgectl {own_version()}\n"
