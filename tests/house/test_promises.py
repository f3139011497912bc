"""What pages promise is what the code does: the reasons of captures, who asks for blocks over HTTPS, what runs on an accelerator."""

from __future__ import annotations

import re

from edgefleet_cli.admin.profile_commands import SHEET, Profile
from edgefleet_cli.core.structs import convert
from edgefleet_profiles import load, names
from edgefleet_profiles.pages import page
from edgefleet_profiles.profile import profile_to_dict
from edgefleet_protocol.messages import CaptureReason
from tests.house.tree import ROOT


def _text(path: str) -> str:
    return (ROOT / path).read_text()


def test_the_reasons_of_captures_are_those_that_occur() -> None:
    table = _text("docs/operate/privacy.md").partition("`random`")[2].partition("\n\n")[0]
    named = {"random", *re.findall(r"(?m)^\| `(\w+)` \|", table)}
    assert named == {one.value for one in CaptureReason}


def test_no_agent_asks_for_blocks_over_https() -> None:
    agent = [file for file in (ROOT / "agent").rglob("*.py") if "/device/v1/blobs" in file.read_text()]
    assert agent == []
    assert "no agent asks for them" in " ".join(_text("docs/protocol/blocks.md").split())


def test_folders_and_s3_are_called_tested_and_other_stores_are_not() -> None:
    """Of object stores only S3 has tests (tests/server/registry/test_object_store.py)."""
    row = next(line for line in _text("docs/reference/settings.md").splitlines() if line.startswith("| `blob_url`"))
    assert "`file:///…` or `s3://…` (tested, S3 against moto)" in row
    assert "`gs://…` or `az://…` (not tested yet)" in row
    tests = _text("tests/server/registry/test_object_store.py")
    assert "s3://" in tests
    assert not re.search(r"(gs|az)://", tests)


def test_a_profile_that_names_an_accelerator_says_that_it_runs_on_the_cpu() -> None:
    runs_on = next(column for column in SHEET.columns if column.header == "runs on")
    accelerated = [one for one in map(load, names()) if one.delegates and one.backend.mode != "refuse"]
    assert {"jetson-orin-ort", "coral-tflite-edgetpu"} <= {one.name for one in accelerated}
    for one in accelerated:
        assert "CPU" in one.title
        assert f"It runs on the CPU: the agent uses no {', '.join(one.delegates)}." in page(one)
        assert runs_on.cell(convert(profile_to_dict(one), Profile)) == f"CPU, not {', '.join(one.delegates)}"
