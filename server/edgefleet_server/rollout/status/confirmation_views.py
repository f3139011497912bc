"""What people see of failures that wait for confirmation, or waited: who reported them, who was drawn, and what follows. Pure.

The names of the fields are public: never renamed. The seed of a draw is never shown.
Source: docs/explanation/rollouts.md; ADR 0087.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.rollout.analysis import confirmation
from edgefleet_server.rollout.analysis.decide import UNCONFIRMED
from edgefleet_server.rollout.analysis.phrases import asked_in_words, failure_named
from edgefleet_server.rollout.model import (
    Answer,
    Confirmation,
    Draw,
    How,
    OnFail,
    Snapshot,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.spec.parts import duration_text

MOST_REPORTERS: Final = 20
_RESTS: Final = (
    "No other device of the stratum is offered the release meanwhile. Without enough answers in time a person decides"
)
_COUNTS: Final = "It still counts as one failure in the evidence"
_SUSPECTS: Final = (
    "The devices that reported it are suspect until a person clears them: `edgectl device clear-suspicion ID`"
)
_LATER: Final = "An answer that comes later still counts"


@dataclass(frozen=True)
class ReportingDevice:
    """A device that reported the failure."""

    device: str
    display_name: str


@dataclass(frozen=True)
class DrawnDevice:
    """A device that the server drew. is_new: it was offered the release for this.

    showed: "" (nothing yet), failed, healthy, or gone (it says nothing); text: the same in words.
    """

    device: str
    display_name: str
    drawn_at: datetime
    is_new: bool
    showed: str
    text: str


@dataclass(frozen=True)
class ConfirmationView:
    """One question whether failures in a stratum are confirmed.

    code, error_class: the plain rule, and what was reported. reports: how many devices reported it; reported_by: the first 20.
    how: fetch, vectors or soak; how_text: in words. need: how many drawn devices must fail. is_proof_ok, proof: what the server's
    own check of the bundle found, null and "" where it made none. verdict: open, confirmed, proved, refuted, unconfirmed,
    timed_out, over. text: how it stands, as a sentence without its full stop; next: what follows, and what a person can do.
    """

    number: int
    code: str
    error_class: str
    reports: int
    reported_by: Sequence[ReportingDevice]
    how: str
    how_text: str
    drawn: Sequence[DrawnDevice]
    need: int
    is_proof_ok: bool | None
    proof: str
    verdict: str
    text: str
    next: str
    opened_at: datetime
    deadline: datetime
    closed_at: datetime | None


def named_in(confirmations: Iterable[Confirmation]) -> list[DeviceId]:
    """Return the devices that the views of these name."""
    pairs = ((one.words[:MOST_REPORTERS], [draw.device for draw in one.draws]) for one in confirmations)
    return sorted(set(chain.from_iterable(chain.from_iterable(pairs))))


def confirmation_views(snapshot: Snapshot, cell: StageRun, names: Mapping[str, str]) -> list[ConfirmationView]:
    """Return the questions that one stage of a stratum opened, in order. names: display names of the devices in them."""
    asked = confirmation.sequence(snapshot.confirmations, cell.stratum)
    return [_view(snapshot, cell, one, names) for one in asked if one.stage == cell.stage]


def _view(snapshot: Snapshot, cell: StageRun, one: Confirmation, names: Mapping[str, str]) -> ConfirmationView:
    return ConfirmationView(
        number=one.number,
        code=one.code,
        error_class=one.error_class,
        reports=len(one.words),
        reported_by=[ReportingDevice(device, names.get(device, "")) for device in one.words[:MOST_REPORTERS]],
        how=one.how.value,
        how_text=_how(snapshot, one),
        drawn=[
            DrawnDevice(
                draw.device, names.get(draw.device, ""), draw.at, draw.is_new, draw.answer.value, _showed(one, draw)
            )
            for draw in one.draws
        ],
        need=confirmation.needed(one),
        is_proof_ok=None if one.proof is None else one.proof.is_ok,
        proof="" if one.proof is None else one.proof.what,
        verdict=one.verdict.value,
        text=_text(one),
        next=". ".join(_next(snapshot, cell, one)),
        opened_at=one.opened_at,
        deadline=one.deadline,
        closed_at=one.closed_at,
    )


def _how(snapshot: Snapshot, one: Confirmation) -> str:
    match one.how:
        case How.FETCH:
            return "the server verifies the bundle again, and so do drawn devices"
        case How.VECTORS:
            return "the server runs the golden vectors again, and so do drawn devices"
        case How.SOAK:
            soak = snapshot.spec.stages[one.stage].soak
            return f"drawn devices run the release for its soak of {duration_text(soak)}"


def _showed(one: Confirmation, draw: Draw) -> str:
    match draw.answer:
        case Answer.FAILED:
            return "failed, too"
        case Answer.HEALTHY:
            return "healthy for a whole soak" if one.how is How.SOAK else "healthy: it passed the check"
        case Answer.GONE:
            return "does not count: it left or cannot answer"
        case Answer.NONE:
            return "no answer yet" if one.verdict in confirmation.ALIVE else "gave no answer"


def _text(one: Confirmation) -> str:
    which = failure_named(one.error_class)
    match one.verdict:
        case Verdict.OPEN:
            return f"{_capital(which)} waits for confirmation: {_progress(one)}"
        case Verdict.CONFIRMED if one.count(Answer.FAILED) < confirmation.needed(one):
            return f"{_capital(which)} is confirmed by devices of another stratum"
        case Verdict.CONFIRMED:
            return f"{_capital(which)} is confirmed: {asked_in_words(one)}"
        case Verdict.PROVED:
            return f"The server's own check of the bundle failed: {'' if one.proof is None else one.proof.what}"
        case Verdict.REFUTED:
            return f"{_capital(which)} is refuted: the bundle passed the server's check, and {asked_in_words(one)}"
        case Verdict.UNCONFIRMED:
            return f"{_capital(which)} is not confirmed: {asked_in_words(one)}"
        case Verdict.TIMED_OUT:
            return f"{_capital(which)} was not confirmed in time: {asked_in_words(one)}"
        case Verdict.OVER:
            return (
                f"{_capital(which)} need not be confirmed any more: its stratum was taken back, or a person let it pass"
            )


def _progress(one: Confirmation) -> str:
    there, need = len(one.draws) - one.count(Answer.GONE), confirmation.needed(one)
    must = f"; {'both' if there == need else need} must fail" if there > 1 else ""
    server = "; the server is checking the bundle" if one.needs_proof and one.proof is None else ""
    return f"{asked_in_words(one)}{must}{server}"


def _next(snapshot: Snapshot, cell: StageRun, one: Confirmation) -> list[str]:
    waits_for_person = cell.state is StageState.HELD and cell.code == UNCONFIRMED
    match one.verdict:
        case Verdict.OPEN:
            return [_RESTS]
        case Verdict.CONFIRMED | Verdict.PROVED if snapshot.spec.on_fail is OnFail.PAUSE:
            return [f"on_fail is pause: {_decide(snapshot)}"]
        case Verdict.CONFIRMED:
            return ["The stratum is rolled back"]
        case Verdict.PROVED:
            return ["Every stratum is rolled back"]
        case _:
            said = [_SUSPECTS] if one.verdict is Verdict.REFUTED else []
            said += [_capital(_decide(snapshot))] if waits_for_person else [_COUNTS]
            return [*said, _LATER] if one.verdict is Verdict.TIMED_OUT else said


def _decide(snapshot: Snapshot) -> str:
    id_ = snapshot.id
    return (
        f"a person decides: `edgectl rollout promote {id_} --reason R` accepts the failure, `edgectl rollout resume {id_}` "
        f"continues and keeps counting it, `edgectl rollout abort {id_} --rollback` rolls it back"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
