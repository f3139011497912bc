"""The document of a rollout: made of flags, or read from a file as it is written."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_cli.rollout.spec import OnFail, Promote, RolloutFlags, document, from_flags, parse_stages, read_document
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from tests.cli.fleet_stub import SPEC, rollout


def test_a_release_and_a_selector_leave_everything_else_to_the_server() -> None:
    assert from_flags(RolloutFlags("digits@1.1.0", "")) == {
        "apiVersion": "edgefleet/v1",
        "kind": "Rollout",
        "spec": {"release": "digits@1.1.0", "selector": ""},
    }


def test_every_flag_has_its_place() -> None:
    flags = RolloutFlags(
        "digits@1.1.0", "env=prod", "1,50%,100%", "10m", Promote.ALL_HEALTHY, OnFail.PAUSE, "digits-1-1-0"
    )
    made = from_flags(flags)
    assert made["metadata"] == {"name": "digits-1-1-0"}
    assert made["spec"] == {
        "release": "digits@1.1.0",
        "selector": "env=prod",
        "stages": [
            {"name": "canary", "size": {"count": 1}, "soak": "10m"},
            {"name": "half", "size": {"percent": 50}, "soak": "10m"},
            {"name": "rest", "size": {"percent": 100}, "soak": "10m"},
        ],
        "promote": "all_healthy",
        "on_fail": "pause",
    }


def test_a_soak_alone_keeps_the_stages_of_the_server() -> None:
    made = parse_spec(from_flags(RolloutFlags("digits@1.1.0", "", soak="90")))
    assert made.stages == tuple(replace(stage, soak=timedelta(seconds=90)) for stage in STRATEGIES["canary"].stages)


def test_the_server_understands_every_document_that_flags_make() -> None:
    for promote in (None, *Promote):
        for on_fail in (None, *OnFail):
            parse_spec(from_flags(RolloutFlags("a@1", "x=y", "canary=1,0.5%,50%,100%", "1.5m", promote, on_fail, "n")))


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ("100%", [("all", {"percent": 100})]),
        ("canary=1, 100%", [("canary", {"count": 1}), ("rest", {"percent": 100})]),
        ("0.5%,10%,100%", [("canary", {"percent": 0.5}), ("stage-2", {"percent": 10}), ("rest", {"percent": 100})]),
        ("2,5", [("canary", {"count": 2}), ("stage-2", {"count": 5})]),
    ],
)
def test_stages_are_read_from_a_list(given: str, stages: list[tuple[str, dict[str, float]]]) -> None:
    assert [(stage["name"], stage["size"]) for stage in parse_stages(given)] == stages


@pytest.mark.parametrize("given", ["", "1,,100%", "ten", "-1", "10 %", "1e3", "a=1,a=100%", "5%%"])
def test_what_is_no_list_of_stages_is_refused(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_stages(given)
    assert "--stages" in caught.value.next_step


@pytest.mark.parametrize(("given", "soak"), [("90", "90s"), ("1.5m", "90s"), ("2h", "2h"), ("0s", "0s")])
def test_a_soak_is_sent_in_whole_seconds(given: str, soak: str) -> None:
    made = from_flags(RolloutFlags("digits@1.1.0", "", stages="100%", soak=given))
    assert made["spec"]["stages"][0]["soak"] == soak


@pytest.mark.parametrize("given", ["500ms", "soon"])
def test_a_soak_that_is_no_number_of_seconds_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        from_flags(RolloutFlags("digits@1.1.0", "", soak=given))


def _write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "rollout.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
@pytest.mark.parametrize(
    "wanted", [SPEC, document(SPEC, "n"), {**document(SPEC), "typo": 1}], ids=["spec", "whole", "typo"]
)
def test_a_file_is_sent_as_it_is_written(tmp_path: Path, write: Any, wanted: dict[str, Any]) -> None:
    assert read_document(_write(tmp_path, write(wanted))) == wanted


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("release: digits@1.1.0\nselector: ''\n"))
    assert read_document("-") == {"release": "digits@1.1.0", "selector": ""}


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
def test_what_show_prints_can_be_created_again(tmp_path: Path, write: Any) -> None:
    assert read_document(_write(tmp_path, write(rollout()))) == document(SPEC, "digits-1-1-0")


def test_a_date_in_yaml_stays_what_was_written(tmp_path: Path) -> None:
    assert read_document(_write(tmp_path, "release: 2026-01-03\n")) == {"release": "2026-01-03"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "just words",
        "a: [",
        "a: &x [*x]",
        "a: .nan",
        "? [1]\n: 2",
        "a: !!python/name:os.system x",
    ],
)
def test_what_is_no_rollout_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_document(_write(tmp_path, text))
    assert caught.value.next_step


def test_a_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_document(_write(tmp_path, "[" * 10_000))


def test_a_file_that_is_no_text_or_too_long_or_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not text"):
        read_document(str(tmp_path / "binary"))
    with pytest.raises(UsageError, match="too large"):
        read_document(_write(tmp_path, "#" * 1_000_001))
    with pytest.raises(UnreadableFileError, match="cannot read"):
        read_document(str(tmp_path / "absent"))
