"""What the pages of rollouts show: read from the rollout and fleet services, put into frozen values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.dashboard.core.rows import ACTIVE, Bar, EventLine, StageLine, bar_of, event_line, stratum_bar
from edgefleet_server.dashboard.rollout_page.decision_replay import Replay, replay
from edgefleet_server.dashboard.rollout_page.gate_timelines import GateTimelines
from edgefleet_server.dashboard.rollout_page.rollout_picture import STATES_OF, Picture, old_version, picture
from edgefleet_server.dashboard.rollouts.draft import OWN, command_of, strategy_of, yaml_of
from edgefleet_server.dashboard.rollouts.gauges import Interval, evidence_share, interval
from edgefleet_server.db.keyset import PageRequest, cut_page
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventView
from edgefleet_server.rollout.commands.duty_separation import Makers
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.spec.parser import API_VERSION, KIND, dump_spec, parse_spec
from edgefleet_server.rollout.status.confirmation_views import ConfirmationView
from edgefleet_server.rollout.status.decision_views import DecisionView
from edgefleet_server.rollout.status.devices import RolloutDevice
from edgefleet_server.rollout.status.failures import FailedDevice
from edgefleet_server.rollout.status.metric_views import MetricView
from edgefleet_server.rollout.status.model import ApprovalView, WaitView
from edgefleet_server.rollout.status.reader import RolloutView, StageView, StratumView

PAGE_ROLLOUTS: Final = 20
PAGE_DEVICES: Final = 50
PAGE_DECISIONS: Final = 25
TIMELINE_EVENTS: Final = 50
MOST_REPLAYED: Final = 1000
"""Decisions of a rollout that can be stepped through, the newest."""
MAX_BAD_DEVICES: Final = 5000
"""Failed devices that are listed by reason; the rest is left out, and the page says so."""
SHOWN_OF_A_REASON: Final = 8
SHOWN_STAGES: Final = 6
PERSON_STATES: Final = ("awaiting_approval", "paused")
"""States that only a person ends."""
UNSETTLED: Final = ("open", "timed_out", "unconfirmed")
"""Verdicts of a confirmation that something or somebody still has to settle."""
COMPARED: Final = frozenset({"non_inferior_rel", "non_inferior_abs"})
_STATES: Final = frozenset(state.value for state in AssignmentState)
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")


# ---- the list


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One row of the list. waits: what would move it, the most frequent first; nothing for one that has ended."""

    rollout: RolloutView
    is_active: bool
    stages: Sequence[StageLine]
    waits: Sequence[WaitView]

    @property
    def is_long(self) -> bool:
        """Whether it has more stages than a small pipeline shows."""
        return len(self.stages) > SHOWN_STAGES


@dataclass(frozen=True, slots=True)
class RolloutList:
    """One page of rollouts, newest first. total: of all that were asked for."""

    lines: Sequence[RolloutLine]
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class WaitingRollout:
    """A rollout that waits for a person. roles: of which one must approve, empty when any operator may act; wait: what is asked."""

    id: str
    name: str
    release: str
    state: str
    reason: str
    roles: Sequence[str]
    wait: WaitView | None


# ---- one rollout


@dataclass(frozen=True, slots=True)
class Meter:
    """Evidence against a threshold. share: how far it has come, percent, by factors."""

    value: float
    at: float
    share: float


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What another program answered about a stage, as the newest decision saw it. message: in words."""

    name: str
    kind: str
    message: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class CellLine:
    """One stage of one stratum. metrics: of quality, each with where it lies.

    take_back: None without liars, where `stop` takes back; promote: None where all must be healthy instead.
    """

    stratum: StratumView
    bar: Bar
    stop: Meter | None
    take_back: Meter | None
    promote: Meter | None
    metrics: Sequence[tuple[MetricView, Interval | None]]
    answers: Sequence[GateAnswer]


@dataclass(frozen=True, slots=True)
class StagePart:
    """One stage with its strata."""

    stage: StageView
    bar: Bar
    cells: Sequence[CellLine]


@dataclass(frozen=True, slots=True)
class Question:
    """A failure that other devices were asked about, with its place."""

    stage: int
    stratum: str
    asked: ConfirmationView


@dataclass(frozen=True, slots=True)
class Asked:
    """An approval that a rollout waits for: of which stage and strata, and by which role."""

    stage: str
    strata: Sequence[str]
    approval: ApprovalView


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Devices on which the release failed for the same reason, numbers in it aside. reason: of the first; devices: the first few."""

    state: str
    error_class: str
    reason: str
    count: int
    devices: Sequence[str]


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """Which devices of a rollout are shown: of a state, of a stage, after an id. "" = all."""

    state: str = ""
    stage: str = ""
    after: str = ""

    @property
    def states(self) -> Sequence[str]:
        """The states that are asked for: one, or those of a place of the strip; none for all."""
        return STATES_OF.get(self.state, (self.state,) if self.state else ())

    @property
    def place(self) -> str:
        """The place of the strip that is asked for, "" where it is a state or nothing."""
        return self.state if self.state in STATES_OF and self.state not in _STATES else ""


@dataclass(frozen=True, slots=True)
class DevicePart:
    """One page of a rollout's devices."""

    chosen: DeviceFilter
    lines: Sequence[RolloutDevice]
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Steering:
    """What a user may do with a rollout now. asked: approvals that it waits for; open_strata: where a stage may be promoted by hand.

    left_out: names of stages that may be left out; makers: who cannot approve.
    """

    rollout: RolloutView
    is_active: bool
    asked: Sequence[Asked]
    open_strata: Sequence[str]
    left_out: Sequence[str]
    makers: Makers


@dataclass(frozen=True, slots=True)
class RolloutPage:
    """One rollout, whole. strategy: its name, `own` for stages of one's own. is_cut: not all failed devices were looked at.

    old: the version that most devices ran before, "" for none.
    """

    rollout: RolloutView
    is_active: bool
    strategy: str
    steering: Steering
    stages: Sequence[StagePart]
    pooled: Meter
    failures: Sequence[FailureGroup]
    is_cut: bool
    devices: DevicePart
    decisions: Sequence[DecisionView]
    older_decisions: int | None
    disagreeing: int
    events: Sequence[EventLine]
    yaml: str
    command: str
    picture: Picture
    old: str = ""

    @property
    def questions(self) -> Sequence[Question]:
        """Failures that wait for confirmation, or for a person because nobody confirmed them."""
        cells = [(part.stage.idx, cell.stratum) for part in self.stages for cell in part.cells]
        return [
            Question(stage, cell.stratum, one)
            for stage, cell in cells
            for one in cell.confirmations
            if one.verdict in UNSETTLED
        ]

    @property
    def has_questions(self) -> bool:
        """Whether failures wait for confirmation, or did."""
        return any(cell.stratum.confirmations for part in self.stages for cell in part.cells)


class RolloutPages:
    """Builds the pages of rollouts. Thread-safe; calls block."""

    def __init__(self, rollouts: RolloutService, feed: EventLog, charts: GateTimelines, clock: Clock) -> None:
        """Wire the services."""
        self._rollouts = rollouts
        self._reader = rollouts.reader
        self._feed = feed
        self._charts = charts
        self._clock = clock

    def page(self, states: Sequence[str], model: str, after: str | None) -> RolloutList:
        """Return rollouts in these states (none: in any), of a model ("": of all), after the one with this id."""
        asked = PageRequest(PAGE_ROLLOUTS, after)
        found, total = self._reader.page(asked, states=states, model=model or None, is_whole=True)
        page = cut_page(found, asked, total, lambda one: one.id)
        return RolloutList([_line(one) for one in page.items], total, page.next_cursor)

    def waiting(self) -> list[WaitingRollout]:
        """Return the rollouts that wait for a person, newest first, at most PAGE_ROLLOUTS."""
        found, _total = self._reader.page(PageRequest(PAGE_ROLLOUTS), states=PERSON_STATES, is_whole=True)
        return [_waiting(one) for one in found[:PAGE_ROLLOUTS]]

    def show(self, rollout_id: str, chosen: DeviceFilter, before: int | None) -> RolloutPage:
        """Return one rollout. before: only decisions before that one. Raises RolloutUnknownError."""
        asked = PageRequest(PAGE_DEVICES, chosen.after or None)
        reading = self._reader.reading(rollout_id, asked, states=chosen.states, stage=chosen.stage or None)
        rollout, found, total = reading.rollout, reading.devices, reading.total
        devices = cut_page(found, asked, total, lambda one: one.device)
        decisions = self._reader.decisions(rollout_id, before=before, limit=PAGE_DECISIONS + 1)
        shown = decisions[:PAGE_DECISIONS]
        failures, is_cut = self._failures(rollout)
        stages = [_stage_part(stage, rollout.spec, shown) for stage in rollout.stages]
        document = _document(rollout)
        strategy = strategy_of(rollout.spec["stages"]) or OWN
        return RolloutPage(
            rollout=rollout,
            is_active=rollout.state in ACTIVE,
            strategy=strategy,
            steering=self._steering(rollout),
            stages=stages,
            pooled=_meter(rollout.pooled.e_abort, rollout.pooled.abort_at),
            failures=failures,
            is_cut=is_cut,
            devices=DevicePart(chosen, devices.items, total, devices.next_cursor),
            decisions=shown,
            older_decisions=shown[-1].id if len(decisions) > PAGE_DECISIONS else None,
            disagreeing=sum(not one.agrees for one in shown),
            events=self._events(rollout_id),
            yaml=yaml_of(document),
            command=command_of(_short(document, strategy)),
            old=old_version(reading),
            picture=picture(reading, shown, self._turns(rollout_id), self._charts.of(rollout), self._clock.now()),
        )

    def steering(self, rollout_id: str) -> Steering:
        """Return what a user may do with a rollout now. Raises RolloutUnknownError."""
        return self._steering(self._reader.rollout(rollout_id))

    def _steering(self, rollout: RolloutView) -> Steering:
        asked = _asked(rollout)
        makers = self._reader.makers(rollout.id) if asked else Makers((), rollout.created_by)
        pending = [stage.name for stage in rollout.stages[:-1] if any(one.state == "pending" for one in stage.strata)]
        return Steering(rollout, rollout.state in ACTIVE, asked, _open_strata(rollout), pending, makers)

    def _failures(self, rollout: RolloutView) -> tuple[list[FailureGroup], bool]:
        if not rollout.counts.failed:
            return [], False
        found, total = self._rollouts.failures.failed(rollout.id, limit=MAX_BAD_DEVICES)
        return failure_groups(found), total > len(found)

    def replay(self, rollout_id: str, at: int) -> tuple[RolloutView, Replay | None]:
        """Return a rollout as it stood at a decision, None where it has no such decision. Raises RolloutUnknownError."""
        rollout = self._reader.rollout(rollout_id)
        return rollout, replay(rollout, self._reader.decisions(rollout_id, limit=MOST_REPLAYED), at)

    def _turns(self, rollout_id: str) -> list[EventView]:
        """Return what became of the rollout and its stages."""
        return self._feed.newest(rollout=rollout_id, limit=TIMELINE_EVENTS, kinds=("rollout", "stage"))

    def _events(self, rollout_id: str) -> list[EventLine]:
        return [event_line(one) for one in self._feed.newest(rollout=rollout_id, limit=TIMELINE_EVENTS)]


# ---- pure


def _line(rollout: RolloutView) -> RolloutLine:
    is_active = rollout.state in ACTIVE
    stages = [StageLine.of(one) for one in rollout.stages]
    return RolloutLine(rollout, is_active, stages, rollout.waits if is_active else ())


def failure_groups(devices: Iterable[FailedDevice]) -> list[FailureGroup]:
    """Return devices by why the release failed on them, the most frequent reason first. Numbers in a reason do not tell reasons apart."""
    groups: dict[tuple[str, str, str], FailureGroup] = {}
    for one in devices:
        key = (one.state, one.error_class, _NUMBER.sub("#", one.reason))
        known = groups.get(key) or FailureGroup(one.state, one.error_class, one.reason, 0, ())
        named = (*known.devices, one.device)[:SHOWN_OF_A_REASON]
        groups[key] = replace(known, count=known.count + 1, devices=named)
    return sorted(groups.values(), key=lambda one: (-one.count, one.error_class, one.reason))


def _stage_part(stage: StageView, spec: Mapping[str, Any], decisions: Sequence[DecisionView]) -> StagePart:
    gate = spec["gates"]["install"]
    cells = [_cell_line(one, gate, _answers(decisions, stage.name, one.stratum)) for one in stage.strata]
    return StagePart(stage, bar_of(stage), cells)


def _cell_line(one: StratumView, gate: Mapping[str, float], answers: Sequence[GateAnswer]) -> CellLine:
    is_open = one.e_abort is not None
    stop = _meter(one.e_abort or 0.0, one.abort_at or 1 / gate["alpha_abort"]) if is_open else None
    wants_evidence = one.rule == "evidence" and one.e_promote is not None
    return CellLine(
        stratum=one,
        bar=stratum_bar(one),
        stop=stop,
        take_back=_meter(one.e_take_back, stop.at) if stop and gate["liars"] and one.e_take_back is not None else None,
        promote=_meter(one.e_promote or 0.0, 1 / gate["alpha_promote"]) if wants_evidence else None,
        metrics=[(metric, metric_picture(metric)) for metric in one.quality],
        answers=answers,
    )


def metric_picture(metric: MetricView) -> Interval | None:
    """Return where a metric lies relative to its threshold."""
    return interval(metric.low, metric.high, metric.value, metric.threshold, with_zero=metric.bound in COMPARED)


def _meter(value: float, at: float) -> Meter:
    return Meter(value, at, evidence_share(value, at))


def _answers(decisions: Sequence[DecisionView], stage: str, stratum: str) -> list[GateAnswer]:
    """Return what the gates of a cell answered, as its newest decision saw them."""
    newest = next((one for one in decisions if (one.stage, one.stratum) == (stage, stratum)), None)
    return [_answer(one) for one in (newest.evidence.get("gates") or () if newest is not None else ())]


def _answer(result: Mapping[str, Any]) -> GateAnswer:
    age, status = result.get("age_s"), result.get("status")
    message = "not called yet" if age is None else str(result.get("error") or f"answered {status}")
    is_yes = status is not None and 200 <= status <= result.get("passes_to", 200)
    return GateAnswer(str(result.get("name", "")), str(result.get("kind", "")), message, is_yes)


def _asked(rollout: RolloutView) -> list[Asked]:
    """Return the approvals that are waited for now, one a stage."""
    found = []
    for stage in rollout.stages:
        cells = [
            (one.stratum, one.approval) for one in stage.strata if one.state == "pending" and one.approval is not None
        ]
        waiting = [
            (name, approval) for name, approval in cells if approval.asked_at is not None and not approval.approved_by
        ]
        if waiting and rollout.state in ("running", "awaiting_approval"):
            found.append(Asked(stage.name, [name for name, _ in waiting], waiting[0][1]))
    return found


def _waiting(rollout: RolloutView) -> WaitingRollout:
    asked = _asked(rollout)
    return WaitingRollout(
        id=rollout.id,
        name=rollout.name,
        release=rollout.release,
        state=rollout.state,
        reason=rollout.reason,
        roles=sorted({one.approval.role for one in asked}),
        wait=next(iter(rollout.waits), None),
    )


def _open_strata(rollout: RolloutView) -> list[str]:
    """Return the strata in which a stage is open or held, so that a user may promote it by hand."""
    can_pass = ("exposing", "soaking", "judging", "held")
    return sorted({one.stratum for stage in rollout.stages for one in stage.strata if one.state in can_pass})


def _document(rollout: RolloutView) -> dict[str, Any]:
    metadata = {"metadata": {"name": rollout.name}} if rollout.name else {}
    return {"apiVersion": API_VERSION, "kind": KIND, **metadata, "spec": dict(rollout.spec)}


def _short(document: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """Return the same document in the words of its author, as far as they can be guessed: without what is the default anyway."""
    spec = document["spec"]
    usual = {"release": spec["release"], "selector": spec["selector"]}
    short = usual | ({"strategy": strategy} if strategy != OWN else {"stages": spec["stages"]})
    promote = spec["stages"][0]["promote"]
    if strategy != OWN and promote != "auto":
        short["promote"] = promote
    default = dump_spec(parse_spec(short))
    short |= {key: value for key, value in spec.items() if key != "stages" and value != default.get(key)}
    return {**document, "spec": short}
