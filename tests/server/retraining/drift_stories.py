"""Random stories of drift in a time of their own, over the real services and tables: how often triggers fire.

A story is a model with one to three triggers, some weeks of causes that come and go, people who start, approve and cancel, runners that
take and lose retrainings, and two to four engines that look, several at once, and are started again. In the end no trigger has fired more
often than its cool-down and budget allow, no two retrainings of the model were under way at once, and each that a trigger started itself
had its cause.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.db.database import Database
from edgefleet_server.events.model import NewEvent
from edgefleet_server.retraining import store
from edgefleet_server.retraining.lifecycle.engine import RetrainingEngine, Surroundings
from edgefleet_server.retraining.model import DriftAfter, RunCause, RunState, RunTrouble, TriggerOn
from edgefleet_server.retraining.run_maker import RunMaker
from edgefleet_server.retraining.runner_leases import LeaseBook
from edgefleet_server.retraining.schemas import TriggerIn
from edgefleet_server.retraining.service import RetrainingService
from edgefleet_server.retraining.tables import RetrainingRun
from edgefleet_server.retraining.trigger_book import TriggerBook
from edgefleet_server.retraining.trigger_rules import CauseSeen
from edgefleet_server.telemetry.errors import NoCaptureKeyError
from tests.support import databases
from tests.support.servers import HandClock

DAY = 86_400
START = datetime(2026, 1, 1, tzinfo=UTC)
MAKER = Principal("t1", "ann", frozenset({Role.ADMIN}), "p-ann")
SECOND = Principal("t2", "sue", frozenset({Role.APPROVER}), "p-sue")
AT_ONCE = 0.2
CAUSED = (TriggerOn.DRIFT, TriggerOn.ACCURACY, TriggerOn.OBJECTIVE)


@dataclass
class Weather:
    """When which cause is there: spans of time by what a trigger looks at. It is what alerts would say."""

    spans: dict[TriggerOn, list[tuple[datetime, datetime]]] = field(default_factory=dict)

    def find(self, on: TriggerOn, _model: str, _objective: str, now: datetime) -> tuple[RunCause, CauseSeen] | None:
        """Return the cause that there is at a moment."""
        for since, until in self.spans.get(on, ()):
            if since <= now < until:
                return RunCause(on, "it moved", alert=1), CauseSeen(since, "it moved")
        return None

    def after(self, *_: Any) -> tuple[DriftAfter, str]:
        """Nobody knows."""
        return DriftAfter.WAITING, "nothing was judged"


class Nothing:
    """An event log that keeps nothing, captures without a key, devices and releases of which there are none."""

    def add(self, rows: Sequence[NewEvent]) -> list[int]:
        """Forget events."""
        return [0] * len(rows)

    def parent_of(self, model: str) -> str:
        """Return a release."""
        return f"{model}@1.0.0"

    def running(self, _release: str, _limit: int) -> Sequence[str]:
        """Return one device."""
        return ("cam-1",)

    def ask(self, *_: Any, **__: Any) -> Any:
        """Refuse: there is no key."""
        raise NoCaptureKeyError("there is no key")

    def model(self, name: str) -> str:
        """Know any model."""
        return name


class House:
    """The services of retraining on one database, with as many engines as there are servers."""

    def __init__(self, url: str) -> None:
        self.db = Database(url)
        databases.upgrade(self.db)
        self.clock = HandClock(START)
        self.weather = Weather()
        self.nothing = Nothing()
        self.again(1)

    def again(self, engines: int) -> None:
        """Start all servers again."""
        nothing: Any = self.nothing
        self.engines = []
        for _ in range(engines):
            self.maker = RunMaker(self.db, nothing, nothing, self.clock)
            self.triggers = TriggerBook(self.db, nothing, self.maker, nothing, {})
            self.leases = LeaseBook(self.db, self.maker, nothing)
            self.service = RetrainingService(self.db, self.maker, nothing)
            around = Surroundings(cast("Any", self.weather), nothing, nothing, nothing, {})
            self.engines.append(RetrainingEngine(self.db, self.maker, self.triggers, self.leases, around))

    def tick(self, draw: random.Random) -> None:
        """Let one engine look, or all of them at once."""
        if draw.random() < AT_ONCE:
            threads = [threading.Thread(target=one.tick) for one in self.engines]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            draw.choice(self.engines).tick()


def _terms(draw: random.Random, name: str, model: str) -> TriggerIn:
    on = draw.choice([*CAUSED, TriggerOn.SCHEDULE, TriggerOn.HAND])
    schedule = f"{draw.randrange(60)} {draw.randrange(24)} * * {draw.choice(['*', '1', '1-5'])}"
    return TriggerIn(
        name=name, model=model, on=on, schedule=schedule if on is TriggerOn.SCHEDULE else "",
        lasting_s=draw.choice([0, 600, 3600]), cool_down_s=draw.choice([0, 3600, DAY, 3 * DAY]), budget=draw.choice([0, 1, 2, 4]),
        budget_period_s=draw.choice([DAY, 7 * DAY, 30 * DAY]), approval=draw.random() < 0.3,
        launcher=cast("Any", {"deadline_s": draw.choice([600, 7200])}),
    )  # fmt: skip


def _weather(draw: random.Random, start: datetime, length_s: int) -> Weather:
    found = Weather()
    for on in CAUSED:
        at, spans = start, []
        while at < start + timedelta(seconds=length_s):
            since = at + timedelta(seconds=draw.expovariate(1 / DAY))
            at = since + timedelta(seconds=draw.expovariate(1 / draw.choice([1200, DAY, 5 * DAY])))
            spans.append((since, at))
        found.spans[on] = spans
    return found


def _people(draw: random.Random, house: House, names: Sequence[str], model: str) -> None:
    """Let somebody do something, whether or not it may be done now."""
    with house.db.read() as session:
        open_run = store.open_run(session, model)
    try:
        match draw.randrange(6):
            case 0:
                house.triggers.start(draw.choice(list(names)), "", MAKER)
            case 1:
                house.service.approve(open_run, "", SECOND)
            case 2:
                house.service.cancel(open_run, "", "ann")
            case 3 | 4:
                held = house.leases.lease(model, "box")
                if held is not None and draw.random() < 0.7:
                    house.leases.fail(held.retraining.id, held.lease, RunTrouble("training.failed", "no disk"))
            case _:
                house.triggers.change(draw.choice(list(names)), {"enabled": draw.random() < 0.8}, None, MAKER)
    except EdgefleetError:
        pass  # it could not be done now


def story(house: House, draw: random.Random, number: int) -> list[str]:
    """Play one story; return what was wrong in the end."""
    model, start = f"m{number}", house.clock.now()
    made = {one.name: one for one in (_terms(draw, f"t{number}-{n}", model) for n in range(draw.randint(1, 3)))}
    for one in made.values():
        house.triggers.create(one.name, model, one.terms(), "", MAKER)
    length_s = draw.choice([2, 7, 20]) * DAY
    house.weather = _weather(draw, start, length_s)
    house.again(draw.randint(2, 4))
    step_s = length_s / draw.randint(12, 36)
    while house.clock.now() < start + timedelta(seconds=length_s):
        house.clock.turn(seconds=draw.choice([1.0, step_s, 2 * step_s * draw.random()]))
        if draw.random() < 0.6:
            _people(draw, house, list(made), model)
        if draw.random() < 0.05:
            house.again(draw.randint(2, 4))
        house.tick(draw)
    wrong, runs = [], _runs(house, model)
    for one in made.values():
        wrong += _too_often(one, [row for row in runs if row.trigger == one.name], house.weather)
    for earlier, later in itertools.pairwise(runs):
        if earlier.ended_at is None or earlier.ended_at > later.created_at:
            wrong.append(f"{earlier.id} and {later.id} of {model} were under way at once")
    _clear(house, list(made), model)
    return wrong


def _runs(house: House, model: str) -> list[RetrainingRun]:
    with house.db.read() as session:
        rows, _ = store.runs_page(session, model=model, trigger="", states=(), after=None, is_up=True, limit=1000)
        return sorted(rows, key=lambda row: row.created_at)


def _too_often(terms: TriggerIn, runs: Sequence[RetrainingRun], weather: Weather) -> list[str]:
    wrong = []
    own = [row.created_at for row in runs if row.is_own]
    cool_down, period = timedelta(seconds=terms.cool_down_s), timedelta(seconds=terms.budget_period_s)
    if any(later - earlier < cool_down for earlier, later in itertools.pairwise(own)):
        wrong.append(f"{terms.name} fired in its cool-down")
    for row in runs:
        if sum(1 for one in runs if timedelta(0) <= row.created_at - one.created_at < period) > terms.budget:
            wrong.append(f"{terms.name} fired beyond its budget of {terms.budget}")
        if row.is_own and terms.on in CAUSED:
            seen = weather.find(terms.on, "", "", row.created_at)
            if seen is None or row.created_at - seen[1].since < timedelta(seconds=terms.lasting_s):
                wrong.append(f"{terms.name} fired without its cause")
    return wrong


def _clear(house: House, names: Sequence[str], model: str) -> None:
    """End what the story left, so that the next one is alone."""
    with house.db.session() as session:
        run_id = store.open_run(session, model)
        if run_id:
            row = store.known_run(session, run_id, lock=True)
            row.state = RunState.CANCELLED.value
            session.add(row)
        for name in names:
            store.remove_trigger(session, name)


def play(url: str, n: int, seed: int) -> dict[str, Any]:
    """Play `n` stories on one database; return what came of them."""
    house, wrong = House(url), list[str]()
    for number in range(n):
        wrong += [f"story {number}: {one}" for one in story(house, random.Random(f"{seed}/{number}"), number)]
    with house.db.read() as session:
        states = store.counts(session)
    house.db.dispose()
    return {"ok": not wrong, "stories": n, "retrainings": sum(states.values()), "states": states, "wrong": wrong[:20]}


def main(n: int, seed: int) -> dict[str, Any]:
    """Play `n` stories (`./dev soak retraining-triggers`)."""
    with tempfile.TemporaryDirectory() as folder:
        return play(f"sqlite:///{Path(folder) / 'stories.db'}", n, seed)
