"""Dashboards for Grafana: the files are what the table of panels makes."""

import json
from pathlib import Path

import pytest

from edgefleet_server.process import integration_files
from edgefleet_server.process.integration_files import FOLDER
from tests.house.grafana_dashboards import DASHBOARDS, main


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_current(name: str, tmp_path: Path) -> None:
    main(tmp_path)
    file = f"{name}.dashboard.json"
    assert (FOLDER / file).read_text("utf-8") == (tmp_path / file).read_text("utf-8"), (
        "run `./dev run python -m tests.house.grafana_dashboards`"
    )


def test_a_share_of_requests_counts_those_without_an_answer() -> None:
    asked = {panel.title: [expression for expression, _legend in panel.queries] for panel in DASHBOARDS["model"]}
    for title in ("Failed", "Not finite", "Errors by group"):
        for expression in asked[title]:
            requests = expression.partition(" / ")[2]
            assert "_predictions_total" in requests, expression
            assert "_timeouts_total" in requests, expression


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


def test_the_files_are_written_and_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert integration_files.main(["--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in FOLDER.iterdir())
    file = out / "edgefleet.rules.yml"
    assert integration_files.main(["--out", str(file)]) == 1
    said = capsys.readouterr().err
    assert f"error: cannot write monitoring files to {file}" in said
    assert "next: give a folder" in said
