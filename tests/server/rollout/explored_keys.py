"""When two explored states are one: those in which the same may follow, for ever.

They differ only in words, in counters that grow for ever but compare alike, and in times that nothing reads any more. That the same
follows is not taken on trust: the explorer goes on from both of some pairs, see `Explorer`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.confirmation import ALIVE, STANDING
from edgefleet_server.rollout.model import (
    Answer,
    Assignment,
    Confirmation,
    How,
    Report,
    RolloutState,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.observe import OVERWRITTEN
from edgefleet_server.rollout.state_machines import ASSIGNMENT_FINAL, CELL_DONE, is_failure
from tests.server.rollout.explored import HOUR, Ground, Node

DUE: Final = 0
"""Hours past which a moment that is waited for was: due is due, however long."""
WAIT: Final = 1
"""Hours after which every deadline of the specs is over."""
SETTLED: Final = 3
"""Hours after which a stage without a verdict is settled: `on_inconclusive.after`."""
PROBATION: Final = 4
"""Hours after which a device that is there and still on probation failed: `PROBATION_FACTOR` times its deadline."""
_S = AssignmentState


def key_of(ground: Ground, node: Node) -> int:
    """Return what tells states apart."""
    cells = tuple(_cell(node, cell) for cell in node.cells)
    known = {ground.place[one.device]: one for one in node.assignments}
    devices = tuple(_device(node, place, known.get(place)) for place in range(len(ground.devices)))
    code = node.code if node.state is RolloutState.ROLLING_BACK else ""  # it says whether only some strata go back
    return hash((node.state, code, node.joined, cells, devices, _failed_in_order(node), _questions(ground, node)))


def combination_of(node: Node) -> str:
    """Return which states of rollout, stages and devices meet in it."""
    stages = "+".join(sorted({cell.state.value for cell in node.cells}))
    states = "+".join(sorted({one.state.value for one in node.assignments}))
    return f"{node.state.value}/{stages}/{states}"


def _cell(node: Node, cell: StageRun) -> tuple[object, ...]:
    times: tuple[int | None, ...] = ()
    if cell.state not in CELL_DONE:
        times = (_ago(node, cell.resumed_at or cell.opened_at, SETTLED), _ago(node, cell.soak_until, DUE))
    asked = (cell.approved_by, _ago(node, cell.asked_at, WAIT) if cell.state is StageState.PENDING else None)
    return (
        cell.stage,
        cell.stratum,
        cell.state,
        cell.cut,
        cell.code,
        cell.verdict,
        cell.strength,
        times,
        asked,
        cell.resumed_at == node.now,
    )


def _failed_in_order(node: Node) -> tuple[object, ...]:
    """Return the devices that failed and that nobody was asked about, first ones first: a question is about the first one's failure."""
    known = {device for one in node.confirmations for device in one.words}
    failing = [one for one in node.assignments if is_failure(one) and one.device not in known]
    order = sorted(failing, key=lambda one: (one.ended_at or node.now, one.device))
    return tuple((one.device, one.ended_at in (None, node.now)) for one in order)


def _questions(ground: Ground, node: Node) -> tuple[object, ...]:
    """Return what of questions something may still depend on, in the order in which they were opened."""
    if not node.confirmations:
        return ()
    opened = sorted({one.opened_at for one in node.confirmations})
    return tuple(_question(ground, node, one, opened.index(one.opened_at)) for one in node.confirmations)


def _question(ground: Ground, node: Node, one: Confirmation, place: int) -> tuple[object, ...]:
    about = (one.stratum, one.stage, one.how, one.code, one.error_class, tuple(one.words), one.verdict, place)
    resumed = [cell.resumed_at for cell in node.cells if cell.stratum == one.stratum]
    went_on = tuple(one.closed_at is not None and at is not None and at >= one.closed_at for at in resumed)
    if one.verdict in STANDING or one.verdict is Verdict.OVER:
        went_on = ()
    if one.verdict not in ALIVE:
        return (about, went_on, tuple(draw.device for draw in one.draws if draw.answer is Answer.FAILED))
    checks, reports = dict(node.checks), node.reports
    draws = []
    for draw in one.draws:
        seen = reports[ground.place[draw.device]].last_seen
        was_heard = one.how is How.SOAK and seen is not None and seen >= draw.at
        waits = () if draw.answer else (_ago(node, draw.at, WAIT), was_heard, checks.get(draw.task))
        draws.append((draw.device, draw.is_new, draw.answer, draw.task != "", waits))
    is_ok = None if one.proof is None else (one.proof.is_ok,)
    return (about, went_on, tuple(draws), one.seed, is_ok, _ago(node, one.deadline, DUE))


def _device(node: Node, place: int, one: Assignment | None) -> tuple[object, ...]:
    said, document = node.reports[place], node.documents[place]
    bundle = "" if document.bundle is None else document.bundle.target
    beside = (document.candidate is not None, document.share, *_told_beside(said))
    spoke = (said.phase, said.active_sha256, said.wanted_sha256, said.error_class, said.is_online)
    is_newer = document.gen > max(said.reported_gen, said.refused_gen)
    told = (is_newer, said.attempt == document.attempt) if one is None else (is_newer, *_assigned(node, place, one))
    is_heard_now = len(node.reports) > 1 and said.last_seen == node.now  # it may be drawn at this moment
    return (bundle, beside, spoke, is_heard_now if said.is_online else _ago(node, said.last_seen, WAIT), told)


def _told_beside(said: Report) -> tuple[str, ...]:
    return (said.candidate.sha256, said.candidate.state, said.candidate.code)


def _assigned(node: Node, place: int, one: Assignment) -> tuple[object, ...]:
    words = (one.state, one.stage, one.reason.startswith(NOT_BACK), one.reason == OVERWRITTEN, one.error_class)
    marks = (
        one.is_joiner,
        one.is_accepted,
        one.exposed_at is not None,
        one.back_done_at is not None,
        one.failed_before,
    )
    return (words, marks, _times(node, place, one), _order(node, place, one), one.retries)


def _times(node: Node, place: int, one: Assignment) -> tuple[object, ...]:
    """Return what of an assignment's times something may still depend on."""
    said = node.reports[place]
    switched: object = one.switched_at is not None
    if one.state in (_S.HEALTHY, _S.VERIFYING):
        switched = _ago(node, one.switched_at, WAIT if one.state is _S.HEALTHY else PROBATION)
    is_owed = one.back_at is not None and one.back_done_at is None
    back = _ago(node, one.back_at, WAIT) if is_owed else one.back_at is not None
    due, unanswered = None, 0.0
    if one.state not in ASSIGNMENT_FINAL or one.state is _S.UNREACHABLE:
        unanswered = min(one.unanswered_s, WAIT * HOUR.total_seconds())
        since = [moment for moment in (one.due_at or one.offered_at, said.last_seen) if moment]
        due = None if said.is_online else _ago(node, max(since, default=None), WAIT)
    is_just_away = one.state is _S.UNREACHABLE and one.entered_at == node.now
    deadlines = (_ago(node, one.deadline, DUE), _ago(node, one.retry_at, DUE))
    return (deadlines, switched, back, due, unanswered, is_just_away)


def _order(node: Node, place: int, one: Assignment) -> tuple[object, ...]:
    """Return how counters that grow for ever compare, where something compares them."""
    said, document = node.reports[place], node.documents[place]
    known, refused = said.reported_gen, said.refused_gen
    offer = (
        one.gen > 0,
        known > one.gen,
        known == one.gen,
        refused >= one.gen,
        refused > known,
        document.gen == one.gen,
    )
    back = (one.back_gen > 0, known >= one.back_gen, document.gen >= one.back_gen)
    attempt = (said.attempt == one.attempt, document.attempt == one.attempt, one.attempt <= 1)
    return (offer, back, attempt)


def _ago(node: Node, moment: datetime | None, most: int) -> int | None:
    """Return in how many hours a moment will be `most` hours ago, 0 for one that is: never negative, since -1 and -2 have one hash."""
    return None if moment is None else most - min(most, (node.now - moment) // HOUR)
