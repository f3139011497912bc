"""`edgectl drift` against a served fleet of which one site runs warm: in words, in tables of 80 columns, as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from msgspec import structs

from edgefleet_cli.core import api, completion
from edgefleet_cli.release.drift.bar_pairs import bar, pair
from edgefleet_cli.release.drift.render import show_model
from edgefleet_cli.render.output import Output
from edgefleet_server.access.model import Role
from tests.cli.conftest import Edgectl
from tests.server.dashboard.drifting_fleet import pumps, say
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.dashboard.serving import served
from tests.server.dashboard.shelf import shelve


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """The fleet, served."""
    fleet = Fleet(tmp_path_factory.mktemp("drift") / "server")
    shelve(fleet, "plain@1.0.0", ORT)
    say(fleet, pumps(fleet)[5])
    with served(fleet.house.own_app()) as url:
        yield fleet, url
    fleet.close()


@pytest.fixture(autouse=True)
def _signed_in(site: tuple[Fleet, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, url = site
    monkeypatch.setenv("EDGECTL_SERVER", url)
    monkeypatch.setenv("EDGECTL_TOKEN", fleet.house.token(Role.OPERATOR))


def test_all_models_have_a_line_and_one_has_words(edgectl: Edgectl) -> None:
    every = edgectl("drift", "show")
    assert every.code == 0, every.err
    assert "pump@1.0.0" in every.out
    assert "▲ drift" in every.out
    assert "no reference" in every.out
    one = edgectl("drift", "show", "pump")
    assert (
        "pump@1.0.0: The inputs have drifted, the answers have not: temperature, 0.99 σ higher at site lyon" in one.out
    )
    assert "reference data of the release, 20000 samples" in one.out
    assert "Devices that report drift themselves" in one.out
    assert "edgectl drift explain pump temperature" in one.err
    wrong = edgectl("drift", "show", "--version", "1.0.0")
    assert (wrong.code, wrong.error_code) == (2, "cli.usage")


def test_a_model_with_labels_says_how_its_answers_fared(capsys: pytest.CaptureFixture[str]) -> None:
    concept = api.model.ConceptDrift(state="none", said="90.0% of labelled answers are right.", labelled=60)
    said = api.model.ModelDrift(model="pump", release="pump@1.0.0", said="Inputs are as before.", concept=concept)
    show_model(Output(), said)
    assert "90.0% of labelled answers are right." in capsys.readouterr().out


def test_what_moved_says_how_much_it_matters(capsys: pytest.CaptureFixture[str]) -> None:
    said = api.model.ModelDrift(model="pump", release="pump@1.0.0", said="The inputs have drifted.")
    heat = api.model.SignalDrift(name="heat", state="drift", psi=0.4, matters="little")
    weighed = structs.replace(heat, weighed="Moved a lot, matters little: no effect beyond chance")
    show_model(Output(), structs.replace(said, signals=(weighed,), importance="Each input shuffled."))
    shown = capsys.readouterr()
    assert "heat: moved a lot, matters little: no effect beyond chance" in shown.out
    assert shown.err.startswith("Each input shuffled.")
    show_model(Output(), structs.replace(said, signals=(heat,), importance="Not measured: there are no labels."))
    assert "in the order of how far they moved. Not measured: there are no labels." in capsys.readouterr().err


def test_signals_are_listed_and_one_is_explained(edgectl: Edgectl) -> None:
    listed = edgectl("drift", "features", "pump")
    lines = listed.out.splitlines()
    assert sum("as before" in line for line in lines) == 5
    assert "+0.99 σ" in next(line for line in lines if line.startswith("temperature"))
    found = edgectl("drift", "features", "pump", "-o", "json").json
    assert found["signals"][0]["name"] == "temperature"
    assert edgectl("drift", "features", "pump", "-o", "name").out.split()[0] == "temperature"
    explained = edgectl("drift", "explain", "pump")
    assert explained.code == 0, explained.err
    assert "temperature (numeric): 0.99 σ higher at site lyon (4 of 12 devices)." in explained.out
    assert "site lyon" in explained.out.partition("By cohort")[2]
    assert "≥ 22.56" in explained.out
    assert edgectl("drift", "explain", "pump", "temperature", "-o", "json").json["cohorts"][0]["where"] == "all"
    assert edgectl("drift", "explain", "pump", "humidity").error_code == "drift.signal_unknown"
    assert edgectl("drift", "explain", "plain").error_code == "cli.usage"


def test_a_period_is_chosen_shown_and_cleared(edgectl: Edgectl, site: tuple[Fleet, str]) -> None:
    assert edgectl("drift", "baseline", "show", "pump@1.0.0").error_code == "drift.no_baseline"
    chosen = edgectl("drift", "baseline", "set", "pump@1.0.0", "--since", "2026-11-24T00:00:00Z")
    assert chosen.code == 0, chosen.err
    assert "is judged by 3600 answers of 12 devices now" in chosen.err
    assert "3600" in edgectl("drift", "baseline", "show", "pump@1.0.0").out
    assert "chosen by" in edgectl("drift", "show", "pump").out
    assert edgectl("drift", "baseline", "clear", "pump@1.0.0", "--yes").code == 0
    assert edgectl("drift", "baseline", "set", "plain@1.0.0", "--since", "7d").error_code in {
        "drift.nothing_counted",
        "drift.bad_period",
    }
    del site


def test_tables_fit_80_columns() -> None:
    for words in (("show", "pump"), ("features", "pump"), ("explain", "pump"), ("show",)):
        command = [sys.executable, "-m", "edgefleet_cli.main", "drift", *words]
        environment = {**os.environ, "COLUMNS": "80"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        wide = [
            line
            for line in done.stdout.splitlines()
            if len(line) > 80 and not line.startswith(("pump@", "Over", "over"))
        ]
        assert wide == [], words


def test_a_tab_offers_signals_and_spans() -> None:
    at = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    at.params = {"model": "pump"}
    assert completion.signals(at, "temp") == ["temperature"]
    assert completion.drift_spans("1") == ["1h", "1d"]


def test_both_histograms_are_on_one_scale() -> None:
    assert pair([0.5, 0.5, 0.0], [0.0, 0.01, 1.0]) == ("▄▄ ", " ▁█")
    assert pair([], []) == ("", "")
    assert (bar(0.5, 1.0), bar(0.001, 1.0), bar(0.0, 1.0)) == ("█" * 8, "█", "")
