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
from tests.server.registry.every_store import RUNS_ON


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


def test_stores_are_called_tested_against_what_the_soak_starts() -> None:
    """Against imitations: no test asks a real cloud (tests/support/cloud_stores.py)."""
    row = next(line for line in _text("docs/reference/settings.md").splitlines() if line.startswith("| `blob_url`"))
    assert "`s3://…`, `gs://…` or `az://…`, tested against imitations of the three clouds" in row
    page = _text("docs/operate/object-store.md")
    lines = [line for line in page.splitlines() if line.startswith("| ") and "://" in line]
    rows = {line.split("`")[1].partition(":")[0]: line for line in lines}
    runs_on = {"s3": ["moto"], "gs": ["fake-gcs-server", "moto"], "az": ["Azurite"]}
    assert {scheme: all(name in rows[scheme] for name in names) for scheme, names in runs_on.items()} == dict.fromkeys(
        rows, True
    )
    assert {scheme.partition("-")[0] for scheme in RUNS_ON} == set(rows)
    assert "No real cloud was asked" in page


def test_a_profile_that_names_an_accelerator_says_that_it_runs_on_the_cpu() -> None:
    runs_on = next(column for column in SHEET.columns if column.header == "runs on")
    accelerated = [one for one in map(load, names()) if one.delegates and one.backend.mode != "refuse"]
    assert {"jetson-orin-ort", "coral-tflite-edgetpu"} <= {one.name for one in accelerated}
    for one in accelerated:
        assert "CPU" in one.title
        assert f"It runs on the CPU: the agent uses no {', '.join(one.delegates)}." in page(one)
        assert runs_on.cell(convert(profile_to_dict(one), Profile)) == f"CPU, not {', '.join(one.delegates)}"
