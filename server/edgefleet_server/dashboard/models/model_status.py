"""How a model stands: the state of what is live, and the sentence that the page begins with. Pure.

Rules:
1. The state is that of what devices run, or of the rollout that changes it. A newer attempt that was refused never colours it.
2. Devices that are not connected count with what they last reported, and the sentence says how many these are. Where no other runs it, the
   state is not good: nobody knows.
3. An objective without figures is not met: it is said apart. No objective is said, too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.dashboard.core.filters import number
from edgefleet_terms.rollout_states import RolloutState

MOST_NAMED: Final = 3
_NUMBERS: Final = ("", "", "", "three", "four", "five", "six", "seven", "eight", "nine")
_ROLLOUTS: Final[Mapping[str, tuple[str, str]]] = {
    RolloutState.RUNNING: ("run", "rolling out"),
    RolloutState.VALIDATING: ("run", "rolling out"),
    RolloutState.PAUSED: ("warn", "paused"),
    RolloutState.AWAITING_APPROVAL: ("warn", "waits for approval"),
    RolloutState.ROLLING_BACK: ("bad", "rolling back"),
}
OPEN_ROLLOUTS: Final = tuple(_ROLLOUTS)
_OBJECTIVES: Final[Mapping[str, tuple[str, str]]] = {
    "spent": ("bad", "is missed: its error budget is used up"),
    "burning": ("bad", "is at risk: its error budget burns fast"),
    "slow_burn": ("warn", "is at risk: its error budget burns slowly"),
}


@dataclass(frozen=True, slots=True)
class VersionStanding:
    """One version. devices: those that run it; silent: how many of these are not connected."""

    version: str
    devices: int = 0
    silent: int = 0
    has_bundle: bool = True
    is_converting: bool = False
    is_withdrawn: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether it runs, and on no device that is connected."""
        return 0 < self.devices <= self.silent


@dataclass(frozen=True, slots=True)
class RolloutStanding:
    """An open rollout."""

    id: str
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class RiseStanding:
    """That latency rose and has not fallen again."""

    before_ms: float
    after_ms: float
    since: datetime


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the lead. kind: of its state, "" for a plain one; to: what it leads to: latency, objectives, devices or ""."""

    text: str
    kind: str = ""
    to: str = ""
    is_strong: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stands. kind: ok, warn, bad, run or off. rollout: the one that is open, None without."""

    kind: str
    words: str
    lead: Sequence[Sentence]
    rollout: RolloutStanding | None


def standing_of(
    versions: Sequence[VersionStanding],
    rollouts: Sequence[RolloutStanding],
    objectives: Sequence[tuple[str, str]],
    rise: RiseStanding | None,
) -> Standing:
    """Return how a model stands. versions, rollouts: the newest first; objectives: title and state of each."""
    running = sorted((one for one in versions if one.devices), key=lambda one: -one.devices)
    rollout = next((one for one in rollouts if one.state in _ROLLOUTS), None)
    kind, words = _state(versions, running, rollout)
    lead = [*_running(running), *_objectives(objectives)]
    if rise is not None:
        text = f"Latency p95 rose from {_three_digits(rise.before_ms)} to {_three_digits(rise.after_ms)} ms."
        lead.append(Sentence(text, "warn", "latency"))
    return Standing(kind, words, lead, rollout)


def version_state(one: VersionStanding, rollouts: Collection[RolloutStanding]) -> tuple[str, str]:
    """Return the state of one version as a kind and words."""
    if one.is_withdrawn:
        return "warn", "withdrawn"
    mine = next(
        (_ROLLOUTS[row.state] for row in rollouts if row.version == one.version and row.state in _ROLLOUTS), None
    )
    if mine is not None:
        return mine
    if one.is_converting:
        return "run", "converting"
    if one.is_silent:
        return "off", "not connected"
    if one.devices:
        return "ok", "running"
    return ("off", "not in use") if one.has_bundle else ("off", "refused")


def _state(
    versions: Sequence[VersionStanding], running: Sequence[VersionStanding], rollout: RolloutStanding | None
) -> tuple[str, str]:
    if rollout is not None:
        kind, words = _ROLLOUTS[rollout.state]
        return kind, f"{rollout.version} {words}"
    withdrawn = next((one for one in running if one.is_withdrawn), None)
    if withdrawn is not None:
        return "warn", f"{withdrawn.version} withdrawn"
    if running and all(one.is_silent for one in running):
        return "off", "no device is connected"
    if running:
        return "ok", f"{running[0].version} running" if len(running) == 1 else f"{len(running)} versions running"
    converting = next((one for one in versions if one.is_converting), None)
    if converting is not None:
        return "run", f"{converting.version} converting"
    if any(one.has_bundle and not one.is_withdrawn for one in versions):
        return "off", "not in use"
    return "off", "nothing to roll out yet"


def _running(running: Sequence[VersionStanding]) -> list[Sentence]:
    if not running:
        return [Sentence("No device runs it.", is_strong=True)]
    named = [
        f"{one.version} {'runs ' if place == 0 else ''}on {_count(one.devices, place == 0)}"
        for place, one in enumerate(running[:MOST_NAMED])
    ]
    rest = running[MOST_NAMED:]
    if rest:
        others = sum(one.devices for one in rest)
        named.append(f"{len(rest)} other version{'s' if len(rest) > 1 else ''} on {_count(others, False)}")
    found = [Sentence(f"{', '.join(named)}.", is_strong=True)]
    silent = sum(one.silent for one in running)
    if silent:
        text = (
            "1 of them is not connected and counts"
            if silent == 1
            else f"{number(silent)} of them are not connected and count"
        )
        found.append(Sentence(f"{text} as last reported."))
    return found


def _objectives(objectives: Sequence[tuple[str, str]]) -> list[Sentence]:
    if not objectives:
        return [Sentence("No objective is set.", to="objectives")]
    bad = [
        Sentence(f"“{title}” {_OBJECTIVES[state][1]}.", _OBJECTIVES[state][0], "objectives")
        for title, state in objectives
        if state in _OBJECTIVES
    ]
    met, total = sum(state == "ok" for _, state in objectives), len(objectives)
    unknown = total - met - len(bad)
    if met == total:
        many = _NUMBERS[total] if 2 < total < len(_NUMBERS) else str(total)
        text = {1: "Its objective is met.", 2: "Both objectives are met."}.get(total, f"All {many} objectives are met.")
        return [Sentence(text, to="objectives")]
    found = bad[:MOST_NAMED]
    if unknown:
        which = (
            "Its objective has"
            if total == 1
            else f"{unknown} of {total} objectives {'has' if unknown == 1 else 'have'}"
        )
        found.append(Sentence(f"{which} no figures yet.", to="objectives"))
    elif len(bad) > MOST_NAMED:
        found.append(Sentence(f"{met} of {total} objectives are met.", to="objectives"))
    return found


def _count(devices: int, is_whole: bool) -> str:
    return number(devices) + (f" device{'' if devices == 1 else 's'}" if is_whole else "")


def _three_digits(value: float) -> str:
    """Return a number in three digits, a large one in all of its whole ones: `:.3g` alone would write it with an exponent."""
    return f"{value:.3g}" if value < 999.5 else number(value)
