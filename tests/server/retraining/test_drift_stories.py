"""Triggers of several servers fire no more often than they may: random stories, and two servers at the same moment."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path

from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.retraining import store
from edgefleet_server.retraining.errors import TriggerHeldError
from edgefleet_server.retraining.lifecycle.engine import RetrainingEngine
from edgefleet_server.retraining.model import TriggerOn
from edgefleet_server.retraining.schemas import TriggerIn
from tests.house.soak import SOAKS
from tests.server.retraining.drift_stories import MAKER, House, Weather, play
from tests.server.retraining.loop_fleet import trigger


def test_no_trigger_fires_more_than_it_may_in_a_sample_of_stories(tmp_path: Path) -> None:
    found = play(f"sqlite:///{tmp_path / 'stories.db'}", SOAKS["retraining-triggers"].in_ci, 7)
    assert found["ok"], found["wrong"]
    assert found["retrainings"] > 0


def test_of_servers_that_look_at_the_same_moment_one_starts_a_retraining(database_url: str) -> None:
    house = House(database_url)
    servers = [House(database_url) for _ in range(3)]
    now = house.clock.now()
    for one in servers:
        one.weather = Weather({TriggerOn.DRIFT: [(now, now + timedelta(days=90))]})
        one.again(1)
    for name in ("first", "second"):
        wanted = TriggerIn.model_validate(trigger(name=name, on="drift", budget=2, cool_down_s=3600))
        house.triggers.create(name, "digits", wanted.terms(), "", MAKER)
    for round_ in range(5):
        for one in servers:
            one.clock.turn(hours=1)
        house.clock.turn(hours=1)
        _at_once([server.engines[0] for server in servers], servers)
        runs = _runs(house)
        assert sum(runs.values()) == min(4, round_ + 1), runs
        assert max(runs.values()) <= 2
        leased = _leased(servers)
        assert leased == (1 if round_ < 4 else 0)
        with house.db.read() as session:
            run_id = store.open_run(session, "digits")
        if run_id:
            house.service.cancel(run_id, "", "ann")
    house.db.dispose()
    for one in servers:
        one.db.dispose()


def _at_once(engines: list[RetrainingEngine], servers: list[House]) -> None:
    """Let all engines look and all people press Start at the same moment."""
    errors: list[Exception] = []

    def start(one: House) -> None:
        try:
            one.triggers.start("first", "", MAKER)
        except TriggerHeldError:
            pass
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=one.tick) for one in engines]
    threads += [threading.Thread(target=start, args=(one,)) for one in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for one in engines:
        one.tick()


def _leased(servers: list[House]) -> int:
    """Let a runner at each server ask at the same moment; return how many got the retraining."""
    found: list[str] = []

    def lease(one: House) -> None:
        held = one.leases.lease("digits", "box")
        if held is not None:
            found.append(held.lease)

    threads = [threading.Thread(target=lease, args=(one,)) for one in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(found)


def _runs(house: House) -> Counter[str]:
    found, _ = house.service.page(PageRequest(100))
    return Counter(one.trigger for one in found)
