"""Counts the events of objectives: from roll-ups, or from samples of the fleet for what no roll-up can say.

- `latency_ms`: answers; good up to the threshold, by the latency sketch at its nearest edge (`error_budget.edge_s`).
- `success`: requests; good unless they ended in an error, a timeout, a crash, or an answer that is not finite.
- `accuracy`: labelled answers; good if the label is what was answered. Counted by hour.
- `availability`: once a minute, each live device that reports the model as serving and was heard of since the server started; good if it
  is connected.
- `answer_age_s`: once a minute; good if the newest answer of the model is not older. `release_age_days`: once a minute, each live device
  that runs the model; good if its release was published not longer ago.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName, ReleaseRef, parse_version
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.objectives import store
from edgefleet_server.objectives.error_budget import Counts, CountStep, within
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.registry.model import ReleaseView
from edgefleet_server.telemetry.rollups.model import Dimension, Step, Sums
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader

SAMPLED: Final = frozenset({Indicator.AVAILABILITY, Indicator.ANSWER_AGE, Indicator.RELEASE_AGE})
COUNTED: Final = frozenset({Indicator.LATENCY, Indicator.SUCCESS})
"""Indicators whose events are known by device, and so by what devices have in common."""
LANE: Final = "active"
MINUTE_S: Final = 60
COARSE_S: Final = 900
HOUR_S: Final = 3600
DAY_S: Final = 86_400
ANSWER_SCALES: Final = (MINUTE_S, COARSE_S, HOUR_S, DAY_S)
LONGEST_REPORT: Final = timedelta(hours=6)


class Devices(Protocol):
    """What is needed of the fleet."""

    def versions(self, selector: str, model: str) -> dict[str, int]:
        """Return how many live devices that match run each version of a model. Raises BadSelectorError."""
        ...


class Releases(Protocol):
    """What is needed of the registry."""

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release. Raises ReleaseUnknownError."""
        ...


class Labels(Protocol):
    """What is needed of ground truth."""

    def hourly(self, name: str, since: datetime, until: datetime) -> list[tuple[datetime, int, int]]:
        """Return (hour, right answers, labelled answers), oldest first."""
        ...


class Indicators:
    """Counts events. Thread-safe; calls block."""

    def __init__(
        self, db: Database, rollups: RollupReader, devices: Devices, releases: Releases, labels: Labels
    ) -> None:
        """Wire the parts."""
        self._db = db
        self._rollups = rollups
        self._devices = devices
        self._releases = releases
        self._labels = labels

    def steps(self, slo: Slo, scale_s: int, since: datetime, until: datetime) -> list[CountStep]:
        """Return the events of an objective in the steps that began in a span of time, oldest first. Steps without any are left out."""
        if slo.indicator in SAMPLED:
            scale = min(scale_s, COARSE_S)
            with self._db.read() as session:
                found = store.samples(session, slo.name, scale, int(since.timestamp()), int(until.timestamp()))
            return [CountStep(datetime.fromtimestamp(at, UTC), Counts(good, total)) for at, good, total in found]
        if slo.indicator is Indicator.ACCURACY:
            hours = self._labels.hourly(slo.model, since, until)
            return [CountStep(at, Counts(right, labelled)) for at, right, labelled in hours]
        steps = self._rollups.models(scale_s, since, until, where=where_of(slo))
        return [CountStep(one.at, counts_of(slo, one.sums)) for one in steps]

    def by_value(self, slo: Slo, place: Dimension, since: datetime, until: datetime) -> dict[str, Counts]:
        """Return the events of a span of time by profile, site or version; empty where the indicator is not counted by these."""
        if slo.indicator not in COUNTED:
            return {}
        found: dict[str, Counts] = {}
        for one in self._rollups.models(HOUR_S, since, until, by=(place,), where=where_of(slo)):
            found[one.key[0]] = found.get(one.key[0], Counts()) + counts_of(slo, one.sums)
        return found

    def report_s(self, slo: Slo, since: datetime, until: datetime) -> float:
        """Return how many seconds a report of a device covers, as a mean; a minute of sampled indicators, an hour of labels."""
        if slo.indicator in SAMPLED:
            return float(MINUTE_S)
        if slo.indicator is Indicator.ACCURACY:
            return float(HOUR_S)
        steps = self._rollups.models(COARSE_S, since, until, where=where_of(slo))
        windows = sum(one.sums.windows for one in steps)
        return sum(one.sums.seconds for one in steps) / windows if windows else 0.0

    def sample(self, slo: Slo, now: datetime) -> Counts:
        """Return the events of this minute of an indicator that is sampled."""
        match slo.indicator:
            case Indicator.AVAILABILITY:
                heard = self._running(slo, "status!=unknown")
                return Counts(self._running(slo, "status=online"), heard)
            case Indicator.ANSWER_AGE:
                return self._answer_age(slo, now)
            case _:
                return self._release_age(slo, now)

    def _running(self, slo: Slo, status: str) -> int:
        return sum(self._versions(slo, status).values())

    def _versions(self, slo: Slo, *more: str) -> Mapping[str, int]:
        selector = ",".join([*(f"{place}={value}" for place, value in slo.where), *more])
        try:
            return self._devices.versions(selector, slo.model)
        except BadSelectorError:  # a group that was removed: nothing can be said
            return {}

    def _answer_age(self, slo: Slo, now: datetime) -> Counts:
        if not self._versions(slo):
            return Counts()  # a model that no device runs owes nobody an answer
        most = timedelta(seconds=slo.threshold or 0.0)
        for scale_s in ANSWER_SCALES:
            whole = most + LONGEST_REPORT + timedelta(seconds=2 * scale_s)  # a report counts where it began
            reach = min(whole, timedelta(seconds=400 * scale_s))
            steps = self._rollups.models(scale_s, now - reach, now, where=where_of(slo))
            ends = [_end(one, scale_s) for one in steps if one.sums.n]
            if ends:
                return Counts(int(now - max(ends) <= most), 1)
            if reach == whole:
                break
        return Counts(0, 1)

    def _release_age(self, slo: Slo, now: datetime) -> Counts:
        most = timedelta(days=slo.threshold or 0.0)
        good = total = 0
        for version, devices in self._versions(slo).items():
            total += devices
            if now - self._published_at(slo.model, version) <= most:
                good += devices
        return Counts(good, total)

    def _published_at(self, model: str, version: str) -> datetime:
        try:
            return self._releases.release(ReleaseRef(ModelName(model), parse_version(version))).created_at
        except EdgefleetError:  # deleted, or none that this server published: as old as can be
            return datetime.fromtimestamp(0, UTC)


def _end(step: Step[Sums], scale_s: int) -> datetime:
    """Return when reports of a step ended at the latest, as a mean: it knows where they began to its length, long ones to COARSE_S."""
    length_s = step.sums.seconds / max(step.sums.windows, 1)
    return step.at + timedelta(seconds=length_s + max(scale_s, COARSE_S if length_s >= COARSE_S else 0))


def where_of(slo: Slo) -> dict[Dimension, Sequence[str]]:
    """Return what roll-ups are asked for: real requests to the model, at its place."""
    own: dict[Dimension, Sequence[str]] = {Dimension.MODEL: (slo.model,), Dimension.LANE: (LANE,)}
    return own | {Dimension(place): (value,) for place, value in slo.where}


def counts_of(slo: Slo, sums: Sums) -> Counts:
    """Return the events in sums of windows."""
    if slo.indicator is Indicator.LATENCY:
        return within(sums.latency, (slo.threshold or 0.0) / 1000)
    total = max(sums.n, sums.failed)
    return Counts(total - sums.failed, total)
