"""Rollouts on the overview: each as a small pipeline with its state in words, and those that ended in one sentence. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.dashboard.core.filters import label, number, sentence
from edgefleet_server.dashboard.core.rows import RolloutLine, StageLine
from edgefleet_server.rollout.model import StageState
from edgefleet_terms.rollout_states import RolloutState

_S: Final = RolloutState
WORDS: Final[Mapping[str, tuple[str, str]]] = {
    _S.DRAFT: ("run", "Created"),
    _S.VALIDATING: ("run", "Being checked"),
    _S.AWAITING_APPROVAL: ("warn", "Waits for approval"),
    _S.RUNNING: ("run", "Running"),
    _S.PAUSED: ("warn", "Paused"),
    _S.ROLLING_BACK: ("bad", "Rolling back"),
    _S.ROLLED_BACK: ("bad", "Rolled back"),
    _S.ROLLBACK_INCOMPLETE: ("bad", "Not back everywhere"),
    _S.FINISHED: ("ok", "Rolled out"),
    _S.REGRESSED: ("bad", "Got worse"),
    _S.SUPERSEDED: ("off", "Replaced"),
    _S.CANCELLED: ("off", "Aborted"),
}
STOPPABLE: Final = (_S.RUNNING, _S.PAUSED, _S.AWAITING_APPROVAL)


@dataclass(frozen=True, slots=True)
class RolloutCard:
    """One rollout. kind, word: its state; pipe: class, name and words of each stage; says: what it does or why it ended.

    decides_at: when a stage is judged next, None where that depends on reports. can_go_back: whether a person can take it back now.
    """

    id: str
    release: str
    name: str
    kind: str
    word: str
    pipe: Sequence[tuple[str, str, str]]
    says: str
    decides_at: datetime | None
    created_at: datetime
    is_active: bool
    can_go_back: bool = False


def card_of(line: RolloutLine) -> RolloutCard:
    """Return a rollout as it is drawn."""
    kind, word = WORDS.get(line.state, ("off", sentence(label(line.state))))
    if line.outlook is not None:
        word = sentence(label(line.outlook.phase))
    if line.stopped_by and not line.counts.failed:
        kind, word = "off", f"{word} by {line.stopped_by}"
    if line.is_braked and line.state == _S.RUNNING:
        kind, word = "warn", "On hold"
    return RolloutCard(
        id=line.id,
        release=line.release,
        name=line.name,
        kind=kind,
        word=word,
        pipe=[(one.sign, sentence(one.name), _counted(one)) for one in line.stages],
        says=line.reason,
        decides_at=None if line.outlook is None else line.outlook.next_decision_at,
        created_at=line.created_at,
        is_active=line.is_active,
        can_go_back=line.state in STOPPABLE,
    )


def _counted(stage: StageLine) -> str:
    bar = stage.bar
    if not bar.population:
        return ""
    if stage.state == StageState.PASSED:
        return _devices(bar.exposed)
    if not bar.exposed:
        return _devices(bar.population)
    return f"{number(bar.exposed)} of {number(bar.population)}"


def _devices(n: int) -> str:
    return f"{number(n)} device{'' if n == 1 else 's'}"
