"""The simulation keeps the pace that a spec asks for, and refuses by name what it does not play."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime
from typing import Any

import pytest

from edgefleet_sim.memory_database import SimDatabase
from edgefleet_sim.scenario import Result, Scenario
from edgefleet_sim.scope import NotSimulatedError
from edgefleet_sim.world import START, World

ONE = [{"name": "all", "size": {"percent": 100}, "soak": "1m"}]


def played(devices: int = 12, **scenario: Any) -> tuple[Result, World]:
    """Return how a rollout of these fields of a spec went, with every promise kept."""
    spec = {"stages": ONE, **scenario.pop("spec", {})}
    world = World(Scenario(devices={"rpi": devices}, spec=spec, **scenario))
    result = world.run()
    assert result.broken == []
    return result, world


def offers(rows: SimDatabase) -> list[datetime]:
    """Return when devices were offered the release, in order."""
    return [event.at for event in rows.events if event.kind == "assignment" and event.after == "offered"]


def stage(**fields: Any) -> dict[str, Any]:
    return {"stages": [ONE[0] | fields]}


def test_a_rate_is_kept_to_the_minute_and_grows_with_good_ones() -> None:
    result, world = played(40, spec=stage(rate={"start": "2/min", "factor": 1}))
    assert result.state == "finished"
    a_minute = Counter(int((at - START).total_seconds() // 60) for at in offers(world.rows))
    assert max(a_minute.values()) <= 3, "two a minute of its own, which need not begin with the clock's"
    took_s = (max(offers(world.rows)) - START).total_seconds()
    assert 17 * 60 < took_s < 30 * 60, "forty devices at two a minute"
    faster = offers(played(40, spec=stage(rate={"start": "2/min", "factor": 2}))[1].rows)
    assert (max(faster) - START).total_seconds() < took_s / 2
    at_once = offers(played(40)[1].rows)
    assert (max(at_once) - START).total_seconds() < 60


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_downloads_are_under_way_than_may_be(most: int) -> None:
    result, world = played(10, spec={"limits": {"concurrent_downloads": most}})
    assert result.state == "finished"
    assert result.devices == {"healthy": 10}
    assert world.rows.pace.leases == {}
    assert len(offers(world.rows)) >= 10


def begun_in_a_second(rows: SimDatabase) -> int:
    """Return how many downloads began at most in one second, as the server heard of them."""
    begun = [event.at for event in rows.events if event.kind == "assignment" and event.after == "downloading"]
    return max(Counter(int((at - START).total_seconds()) for at in begun).values())


def test_a_crowd_begins_over_the_seconds_that_it_needs() -> None:
    result, world = played(600, spec={"device": {"download_deadline": "1h", "start_within": "2m"}})
    assert (result.state, result.devices) == ("finished", {"healthy": 600})
    at_once = begun_in_a_second(played(600, spec={"device": {"start_within": "0s"}})[1].rows)
    assert begun_in_a_second(world.rows) <= 25, "five a second, and what is heard together"
    assert at_once >= 100, "what it is without"


def test_a_span_is_kept_by_devices_that_lose_power_and_by_a_wire_that_loses() -> None:
    spec = {"device": {"download_deadline": "1h", "start_within": "20m"}}
    for seed in range(6):
        trouble = {"loss": 0.3, "duplicate": 0.3, "reorder": 0.3, "device_crash": 20.0, "skew_s": 3_600.0}
        result, _ = played(8, seed=seed, spec=spec, **trouble)
        late = [line for line in result.transcript if "acked -> lost" in line or "downloading -> lost" in line]
        assert late == [], f"seed {seed}: power cuts may cost the short deadlines after it, never this one"


def test_a_narrow_line_begins_one_bundle_after_the_other() -> None:
    _, world = played(6, spec={"limits": {"bandwidth": "1Mbps"}})  # a bundle of 2 MB takes 16 s of it
    begun = sorted(offers(world.rows))
    assert all((later - earlier).total_seconds() >= 13 for earlier, later in itertools.pairwise(begun))


def test_outside_of_its_window_nothing_is_offered() -> None:
    window = {"cron": "0 3 * * *", "duration": "2h", "tz": "UTC"}
    result, world = played(6, spec={"windows": [window]})
    assert result.state == "finished"
    assert {at.hour for at in offers(world.rows)} <= {3, 4}
    assert min(offers(world.rows)) - START < (datetime(2026, 1, 5, 3, 1) - datetime(2026, 1, 5))


@pytest.mark.parametrize("seed", range(6))
def test_all_of_it_with_all_that_goes_wrong_keeps_every_promise(seed: int) -> None:
    spec = {
        **stage(rate={"start": "3/min"}),
        "limits": {"concurrent_downloads": 2, "bandwidth": "4Mbps"},
        "device": {"retries": {"max": 2, "backoff": "1m..5m", "on": ["network", "disk"]}},
    }
    result, _ = played(
        8,
        seed=seed,
        spec=spec,
        loss=0.2,
        duplicate=0.2,
        reorder=0.2,
        replica_crash=0.05,
        device_crash=2.0,
        away=0.2,
        bad=0.2 if seed % 2 else 0.0,
    )
    assert result.state in {"finished", "rolled_back", "rollback_incomplete"}


NOT_PLAYED: list[tuple[dict[str, Any], str]] = [
    (stage(webhook=[{"kind": "confirm-rollout", "url": "https://ci.example/"}]), "$.stages[0].webhook"),
    ({"stages": [{"name": "s", "size": {"count": 1}, "match": "site=a"}, *ONE]}, "$.stages[0].match"),
    ({"gates": {"quality": {"metrics": [{"name": "latency_p95_ms", "non_inferior_rel": 0.1}]}}}, "$.gates.quality"),
    ({"limits": {"per_site": 2}}, "$.limits.per_site"),
    ({"windows": [{"cron": "0 3 * * *", "duration": "2h"}]}, "$.windows[0].tz device"),
    ({"strata": ["profile", "site"]}, "$.strata"),
]


@pytest.mark.parametrize(("spec", "named"), NOT_PLAYED, ids=[named for _, named in NOT_PLAYED])
def test_what_is_not_played_is_refused_by_its_place(spec: dict[str, Any], named: str) -> None:
    with pytest.raises(NotSimulatedError) as caught:
        World(Scenario(spec={"stages": ONE, **spec}))
    assert named in caught.value.message


def test_what_depends_on_labels_is_played_where_the_scenario_has_them() -> None:
    fields = {
        "strata": ["profile", "site"],
        "limits": {"per_site": 1},
        "windows": [{"cron": "0 3 * * *", "duration": "2h"}],
    }
    result, world = played(6, spec=fields, labels={"site": ("a", "b"), "tz": ("Europe/Berlin",)})
    assert (result.state, result.devices) == ("finished", {"healthy": 6})
    assert {one.stratum for one in world.rows.assignments.values()} == {"rpi/site=a", "rpi/site=b"}
    assert {at.hour for at in offers(world.rows)} <= {2, 3}, "three and four o'clock in Berlin"


def test_devices_that_join_later_do_not_fit_a_snapshot() -> None:
    with pytest.raises(NotSimulatedError, match="membership"):
        World(Scenario(spec={"membership": "snapshot"}, joiners=1))
    assert World(Scenario(spec={"membership": "snapshot"})).run().broken == []
