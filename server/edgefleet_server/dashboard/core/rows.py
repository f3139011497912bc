"""What the pages show: read from the services, put into frozen values that the templates only have to write down."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.events.model import EventView
from edgefleet_server.fleet.inventory.views import DeviceView, Refusal, ReportedModel, probation_text, release_of
from edgefleet_server.rollout.model import StageState
from edgefleet_server.rollout.status.outlook import OutlookView
from edgefleet_server.rollout.status.reader import RolloutView, StageView, StratumView
from edgefleet_server.rollout.status.summary import CountsView
from edgefleet_terms.rollout_states import shown_state

PAGE_DEVICES: Final = 50
PAGE_ROLLOUTS: Final = 20
PAGE_EVENTS: Final = 20
ACTIVE: Final = ("validating", "awaiting_approval", "running", "paused", "rolling_back")


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of a device: what runs, what should, and what stands between. Texts are empty where there is nothing.

    withdrawn: why what runs was withdrawn. probation: how far a version on probation is; since: when it began.
    """

    model: str
    running: str
    wanted: str
    phase: str
    trouble: str
    withdrawn: str = ""
    probation: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """One row of the device table. `trouble` is what concerns the whole device; name: "" when it has none."""

    id: str
    name: str
    profile: str
    status: str
    last_seen: datetime | None
    models: Sequence[ModelLine]
    trouble: str
    is_suspect: bool = False


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event: what happened, to whom, from which state to which, and why."""

    at: datetime
    what: str
    device: str
    rollout: str
    place: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Devices of a stage or stratum: healthy + failed + pending + taken back = exposed, out of `population`.

    has_passed: the stage is over and good, and its bar is full.
    """

    population: int
    exposed: int
    healthy: int
    failed: int
    pending: int
    taken_back: int
    has_passed: bool = False

    @classmethod
    def of(cls, counts: CountsView, population: int, *, has_passed: bool = False) -> "Bar":
        """Return the bar of counts. Devices that left the stratum still count as exposed."""
        taken_back = counts.exposed - counts.healthy - counts.failed - counts.pending
        whole = counts.exposed if has_passed else max(population, counts.exposed)
        return cls(whole, counts.exposed, counts.healthy, counts.failed, counts.pending, taken_back, has_passed)


SIGNS: Final = {
    "passed": "done",
    "skipped": "done",
    "failed": "stop",
    "held": "held",
    "exposing": "now",
    "soaking": "now",
    "judging": "now",
}
"""How a stage is drawn in a pipeline, by its state; any other has never begun."""
SIGN_ICONS: Final = {"done": "check", "now": "run", "held": "pause", "stop": "x", "ended": "x", "never": ""}


def step_sign(state: str, *, by_person: bool = False) -> str:
    """Return how a stage is drawn. by_person: a person ended it, and nothing spoke against the release."""
    found = SIGNS.get(state, "never")
    return "ended" if found == "stop" and by_person else found


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage in the list of rollouts."""

    name: str
    state: str
    bar: Bar
    counts: CountsView
    stopped_by: str

    @property
    def sign(self) -> str:
        """How it is drawn in a pipeline."""
        return step_sign(self.state, by_person=bool(self.stopped_by) and not self.counts.failed)

    @property
    def icon(self) -> str:
        """The picture in its node, "" for none."""
        return SIGN_ICONS[self.sign]

    @classmethod
    def of(cls, stage: StageView) -> "StageLine":
        """Return a stage as a line."""
        return cls(stage.name, stage.state, bar_of(stage), stage.counts, stage.stopped_by)


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One row of the rollout table."""

    id: str
    name: str
    release: str
    state: str
    is_partial: bool
    is_active: bool
    is_braked: bool
    stage: str
    reason: str
    created_at: datetime
    stages: Sequence[StageLine]
    counts: CountsView
    outlook: OutlookView | None
    stopped_by: str


def device_line(device: DeviceView) -> DeviceLine:
    """Return a device as a row: a line for each model that it runs or should run."""
    reported = {one.model: one for one in device.models}
    wanted = {one.model: one for one in device.desired.models}
    models = [
        ModelLine(
            model=name,
            running=_running(reported.get(name)),
            wanted=wanted[name].release if name in wanted else "",
            phase=reported[name].phase if name in reported else "",
            trouble=_trouble(reported.get(name)),
            withdrawn=reported[name].withdrawn if name in reported else "",
            probation=_probation(reported.get(name)),
            since=reported[name].changed_at if name in reported else None,
        )
        for name in sorted(reported.keys() | wanted.keys())
    ]
    refused = device.refused
    trouble = "" if refused is None else f"refused {_document(refused)}: {refused.reason}"
    return DeviceLine(
        device.id,
        device.display_name,
        device.profile,
        device.status.value,
        device.last_seen,
        models,
        trouble,
        is_suspect=device.suspect_since is not None,
    )


def _document(refused: Refusal) -> str:
    """Return which document was refused with which code; one that was not even read has no number."""
    return f"document {refused.gen} ({refused.code})" if refused.gen else f"its document ({refused.code})"


def event_line(event: EventView) -> EventLine:
    """Return an event as a row. Transitions name both states; reports of devices the phase they reached."""
    detail = event.detail
    target = str(detail.get("target") or "")
    place = "/".join(str(detail[key]) for key in ("stage", "stratum") if detail.get(key) not in (None, ""))
    reason = detail.get("reason") or detail.get("code")
    reasons = [str(one) for one in (detail.get("error_class"), reason) if one]
    before, after = str(detail.get("from") or ""), str(detail.get("to") or detail.get("phase") or "")
    if event.kind == "rollout":
        before, after = shown_state(before), shown_state(after)
    return EventLine(
        at=event.at,
        what=event.kind,
        device=event.device,
        rollout=event.rollout or "",
        place=place or ("" if event.rollout else (release_of(target) if target else None) or event.model),
        before=before,
        after=after,
        reason=": ".join(reasons),
    )


def _running(reported: ReportedModel | None) -> str:
    return "" if reported is None else reported.release or ""


def _probation(reported: ReportedModel | None) -> str:
    return "" if reported is None or reported.probation is None else probation_text(reported.probation)


def _trouble(reported: ReportedModel | None) -> str:
    if reported is None:
        return ""
    return ": ".join(part for part in (reported.error_class, reported.reason or reported.error_code) if part)


def rollout_line(rollout: RolloutView) -> RolloutLine:
    """Return a rollout as a row."""
    stages = [StageLine.of(stage) for stage in rollout.stages]
    return RolloutLine(
        id=rollout.id,
        name=rollout.name,
        release=rollout.release,
        state=rollout.state,
        is_partial=rollout.is_partial,
        is_active=rollout.state in ACTIVE,
        is_braked=rollout.is_braked,
        stage=rollout.stage or "",
        reason=rollout.reason,
        created_at=rollout.created_at,
        stages=stages,
        counts=rollout.counts,
        outlook=rollout.outlook,
        stopped_by=rollout.stopped_by,
    )


def bar_of(stage: StageView) -> Bar:
    """Return the bar over all strata: of a stage and those before it, as its strata count."""
    has_passed = stage.state == StageState.PASSED
    bars = [stratum_bar(one, has_passed=has_passed) for one in stage.strata]
    sums = {name: sum(getattr(bar, name) for bar in bars) for name in Bar.__slots__ if name != "has_passed"}
    return Bar(**sums, has_passed=has_passed)


def stratum_bar(one: StratumView, *, has_passed: bool | None = None) -> Bar:
    """Return the bar of a stratum: of the devices that its stage is for, once that has opened, and of all that it has before."""
    counts, is_over = one.counts, one.state == StageState.PASSED if has_passed is None else has_passed
    mine = counts.members if one.opened_at is not None and counts.members else one.population
    return Bar.of(counts, mine, has_passed=is_over)
