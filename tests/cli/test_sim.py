"""`edgectl sim` without a server: the child process answers, and the exit code says whether every promise was kept."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Edgectl


def test_it_tells_how_a_rollout_ends_and_the_same_seed_tells_the_same(edgectl: Edgectl) -> None:
    flags = (
        "--seed",
        "7",
        "--devices",
        "4",
        "--loss",
        "0.3",
        "--duplicate",
        "0.3",
        "--replica-crash",
        "0.1",
        "-o",
        "json",
    )
    first = edgectl("sim", *flags)
    assert first.code == 0, first.err
    told = first.json
    assert (told["state"], told["broken"]) == ("finished", [])
    assert told["scenario"]["seed"] == 7
    assert edgectl("sim", *flags).json == told


def test_it_shows_the_story_and_fits(edgectl: Edgectl) -> None:
    ran = edgectl("sim", "--seed", "2", "--devices", "4", "--bad", "1", "--story")
    assert ran.code == 0, ran.err
    for word in ("rolled_back", "canary/profile-0", "exposing"):
        assert word in ran.out


def test_many_runs_are_counted(edgectl: Edgectl) -> None:
    ran = edgectl("sim", "--runs", "3", "--seed", "1", "-o", "json")
    assert ran.code == 0, ran.err
    assert (ran.json["runs"], ran.json["broken_runs"]) == (3, 0)


def test_many_runs_refuse_what_they_would_ignore(edgectl: Edgectl) -> None:
    ran = edgectl("sim", "--runs", "3", "--devices", "8", "--loss", "0", "-o", "json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.told()[0] == "--runs does not go with --devices, --loss"


def test_a_spec_that_cannot_be_read_names_the_field(edgectl: Edgectl, tmp_path: Path) -> None:
    spec = {"release": "digits@1.1.0", "selector": "", "stages": [{"name": "a", "size": {"percent": 500}}]}
    ran = edgectl("sim", "-f", "-", stdin=json.dumps(spec))
    assert ran.code == 2
    assert "percent" in ran.err


def test_what_is_not_played_is_refused_with_all_its_places(edgectl: Edgectl) -> None:
    stages = [{"name": "a", "size": {"percent": 100}}]
    spec = {"release": "digits@1.1.0", "selector": "", "stages": stages, "limits": {"per_site": 1}}
    ran = edgectl("sim", "-f", "-", stdin=json.dumps(spec | {"strata": ["profile", "site"]}))
    assert ran.code == 2
    for word in ("$.limits.per_site", "$.strata", "rollout plan"):
        assert word in ran.err


def test_a_spec_s_pace_is_kept(edgectl: Edgectl) -> None:
    stages = [{"name": "a", "size": {"percent": 100}, "soak": "0s", "rate": {"start": "1/min", "factor": 1}}]
    spec = {"release": "digits@1.1.0", "selector": "", "stages": stages}
    ran = edgectl("sim", "--devices", "6", "-f", "-", "-o", "json", stdin=json.dumps(spec))
    assert (ran.code, ran.json["state"]) == (0, "finished")
    assert ran.json["took_s"] > 5 * 60


def test_one_of_many_runs_is_told_alone(edgectl: Edgectl) -> None:
    ran = edgectl("sim", "--drawn", "5", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["scenario"]["seed"] == 5
    assert ran.json["scenario"]["loss"] == 0.3, "drawn, as --runs does"
    again = edgectl("sim", "--scenario", "-", "-o", "json", stdin=json.dumps(ran.json["scenario"]))
    assert again.json == ran.json
    whole = edgectl("sim", "--scenario", "-", "-o", "json", stdin=ran.out)
    assert whole.json == ran.json, "what was printed may be given whole"


def test_a_drawn_scenario_refuses_what_it_would_ignore(edgectl: Edgectl) -> None:
    for flags in (("--drawn", "5"), ("--scenario", "x.json")):
        ran = edgectl("sim", *flags, "--seed", "3", "-o", "json")
        assert (ran.code, ran.told()[0]) == (2, f"{flags[0]} does not go with --seed")
