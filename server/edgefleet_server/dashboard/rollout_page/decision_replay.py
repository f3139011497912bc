"""A rollout as it stood at one of its decisions: the pipeline, the evidence, and the decisions before and after. Pure.

It is made of what was stored then: when stages opened and ended, and the newest decision of each stage and stratum up to that moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgefleet_server.dashboard.rollout_page.stage_steps import Lane, Pipeline, Step, StepKind
from edgefleet_server.dashboard.rollouts.gauges import EvidenceGauge, evidence_gauge
from edgefleet_server.rollout.status.decision_views import DecisionView
from edgefleet_server.rollout.status.reader import RolloutView, StageView, StratumView


@dataclass(frozen=True, slots=True)
class Replay:
    """One moment. number, of: which decision it is, the oldest first; before, after: ids of its neighbours, None at an end."""

    decision: DecisionView
    number: int
    of: int
    before: int | None
    after: int | None
    first: int
    last: int
    pipeline: Pipeline
    gauge: EvidenceGauge | None


def replay(rollout: RolloutView, decisions: Sequence[DecisionView], at: int) -> Replay | None:
    """Return the moment of the decision with this id, None where there is none. decisions: all, newest first."""
    ordered = sorted(decisions, key=lambda one: one.id)
    place = next((n for n, one in enumerate(ordered) if one.id == at), None)
    if place is None:
        return None
    chosen = ordered[place]
    newest = {(one.stage, one.stratum): one for one in ordered[: place + 1]}
    figures = chosen.figures
    gauge = None
    if figures.get("e_abort") is not None and figures.get("abort_at"):
        gauge = evidence_gauge(float(figures["e_abort"]), float(figures["abort_at"]))
    names = sorted({cell.stratum for stage in rollout.stages for cell in stage.strata})
    steps = [_step(stage, newest, names, chosen.at) for stage in rollout.stages]
    return Replay(
        decision=chosen,
        number=place + 1,
        of=len(ordered),
        before=ordered[place - 1].id if place else None,
        after=ordered[place + 1].id if place + 1 < len(ordered) else None,
        first=ordered[0].id,
        last=ordered[-1].id,
        pipeline=Pipeline(steps, names if len(names) > 1 else (), len(names)),
        gauge=gauge,
    )


Newest = dict[tuple[str, str], DecisionView]


def _step(stage: StageView, newest: Newest, names: Sequence[str], at: datetime) -> Step:
    lanes = [_lane(stage, cell, newest.get((stage.name, cell.stratum)), at) for cell in stage.strata]
    by_name = {one.stratum: one for one in lanes}
    kind = _worst([one.kind for one in lanes])
    words = {
        StepKind.DONE: "Passed",
        StepKind.STOP: "Stopped",
        StepKind.HELD: "Paused",
        StepKind.NOW: "Open",
        StepKind.NEVER: "Not open yet",
    }
    together = lanes[0] if len(lanes) == 1 else Lane("", kind, "", words.get(kind, ""))
    shown = [by_name.get(name, Lane(name, StepKind.NEVER, "", "no devices")) for name in names]
    return Step(
        stage.idx,
        stage.name,
        stage.size_text,
        kind,
        words.get(kind, ""),
        None,
        together,
        shown if len(names) > 1 else (),
    )


def _worst(kinds: Sequence[StepKind]) -> StepKind:
    for one in (StepKind.STOP, StepKind.HELD, StepKind.NOW):
        if one in kinds:
            return one
    if StepKind.DONE in kinds:
        return StepKind.DONE if all(one is StepKind.DONE for one in kinds) else StepKind.NOW
    return StepKind.NEVER


def _lane(stage: StageView, cell: StratumView, decision: DecisionView | None, at: datetime) -> Lane:
    if decision is None:
        # a stage opens at the very moment of the decision that lets the one before it pass, and after it
        has_opened = cell.opened_at is not None and (cell.opened_at < at or (not stage.idx and cell.opened_at == at))
        kind = StepKind.NOW if has_opened else StepKind.NEVER
        return Lane(cell.stratum, kind, "", "opened" if has_opened else "not open yet")
    kind = {
        "advance": StepKind.DONE,
        "roll_back": StepKind.STOP,
        "pause": StepKind.HELD,
    }.get(decision.verdict, StepKind.NOW)
    counts = decision.figures
    of = int(counts.get("exposed") or 0) + int(counts.get("offered") or 0)
    if not of:
        return Lane(cell.stratum, kind, "", "no device had it")
    healthy, failed = int(counts.get("healthy") or 0), int(counts.get("failed") or 0)
    good, bad = round(100 * healthy / of, 2), round(100 * failed / of, 2)
    if failed:
        return Lane(cell.stratum, kind, f"{failed} of {of}", "failed", good, bad)
    return Lane(cell.stratum, kind, f"{healthy} of {of}", "healthy", good, 0.0, round(100 - good, 2))
