"""Dashboards for Grafana: the files are what the table of panels makes."""

import json
from pathlib import Path

import pytest

from edgefleet_server.process.integration_files import FOLDER
from tests.house.grafana_dashboards import DASHBOARDS, main


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_current(name: str, tmp_path: Path) -> None:
    main(tmp_path)
    file = f"{name}.dashboard.json"
    assert (FOLDER / file).read_text("utf-8") == (tmp_path / file).read_text("utf-8"), (
        "run `./dev run python -m tests.house.grafana_dashboards`"
    )


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_is_in_its_place(name: str) -> None:
    made = json.loads((FOLDER / f"{name}.dashboard.json").read_text("utf-8"))
    assert made["uid"] == f"edgefleet-{name}"
    assert [panel["title"] for panel in made["panels"]] == [panel.title for panel in DASHBOARDS[name]]
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
