"""A retraining as steps from its cause to whether that is gone: what each step did, does, or waits for. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from edgefleet_server.dashboard.core.rows import SIGN_ICONS
from edgefleet_server.retraining.model import DriftAfter, LauncherKind, RetrainingView, RunState

_S = RunState
_AT: Final = {
    _S.AWAITING_APPROVAL: "approval", _S.COLLECTING: "data", _S.QUEUED: "training", _S.TRAINING: "training", _S.CONVERTING: "release",
    _S.ROLLING_OUT: "rollout", _S.REJECTED: "approval",
}  # fmt: skip
"""The step that a state is about; other ends are where the run was when it ended."""
_ORDER: Final = ("cause", "approval", "data", "training", "release", "rollout", "drift")
_NAMES: Final = {
    "cause": "Cause", "approval": "Approval", "data": "Data set", "training": "Training", "release": "New release",
    "rollout": "Rollout", "drift": "Cause gone?",
}  # fmt: skip
_NOW: Final = {
    _S.AWAITING_APPROVAL: "held", _S.COLLECTING: "now", _S.QUEUED: "held", _S.TRAINING: "now", _S.CONVERTING: "now", _S.ROLLING_OUT: "now",
    _S.STOPPED: "stop", _S.REJECTED: "stop", _S.FAILED: "stop", _S.EXPIRED: "stop", _S.CANCELLED: "ended",
}  # fmt: skip
_DRIFT: Final = {
    DriftAfter.WAITING: ("now", "watched"), DriftAfter.GONE: ("done", "gone"), DriftAfter.STILL_THERE: ("stop", "still there"),
    DriftAfter.UNKNOWN: ("ended", "unknown"),
}  # fmt: skip
MOST_CHARS: Final = 90
KINDS: Final = {
    _S.AWAITING_APPROVAL: "warn", _S.COLLECTING: "run", _S.QUEUED: "run", _S.TRAINING: "run", _S.CONVERTING: "run", _S.ROLLING_OUT: "run",
    _S.PROMOTED: "ok", _S.PUBLISHED: "ok", _S.STOPPED: "bad", _S.FAILED: "bad", _S.REJECTED: "off", _S.CANCELLED: "off",
    _S.EXPIRED: "bad",
}  # fmt: skip
"""The colour and shape of each state."""


@dataclass(frozen=True, slots=True)
class LoopStep:
    """One step. kind: done, now, held, stop, ended or never; says: what it is about; more: its figures; href: a page of its own."""

    name: str
    kind: str
    says: str = ""
    more: str = ""
    href: str = ""

    @property
    def icon(self) -> str:
        """The name of its picture, "" for an empty circle."""
        return SIGN_ICONS[self.kind]


def loop_steps(run: RetrainingView) -> list[LoopStep]:
    """Return the steps of a retraining, in order. Without an approval or a rollout asked for, there is no such step."""
    steps = [name for name in _ORDER if _has(run, name)]
    at = _reached(run)
    return [_step(run, name, steps.index(name) - steps.index(at) if at in steps else -1) for name in steps]


def _has(run: RetrainingView, name: str) -> bool:
    if name == "approval":
        return run.approval
    return name not in {"rollout", "drift"} or run.rollout_spec is not None


def _reached(run: RetrainingView) -> str:
    """Return the step at which a run is, or ended. "drift" where its release was promoted."""
    if run.state in _AT:
        return _AT[run.state]
    if run.state in {_S.PROMOTED, _S.PUBLISHED}:
        return "drift" if run.rollout_spec is not None else "release"
    if run.rollout:
        return "rollout"
    if run.release:
        return "release"
    if run.began_at is not None or run.attempts or run.data_set is not None:
        return "training"
    if run.approval and run.answered_at is None:
        return "approval"
    return "data"


def _step(run: RetrainingView, name: str, distance: int) -> LoopStep:
    """Return a step. distance: how many steps after the one that was reached it is."""
    is_over = run.ended_at is not None
    kind = "done" if distance < 0 else "never"
    if distance == 0:
        kind = _NOW.get(run.state, "done")
    if name == "cause":
        return LoopStep(
            _NAMES[name],
            "done",
            run.cause.on.value,
            cut(run.cause.words),
            f"/alerts/{run.cause.alert}" if run.cause.alert else "",
        )
    if name == "drift":
        return _drift(run, is_over=is_over)
    says, more, href = _WORDS[name](run)
    if kind == "never":
        says, more = ("" if is_over else "not yet"), ""
    return LoopStep(_NAMES[name], kind, says, more, href)


def _approval(run: RetrainingView) -> tuple[str, str, str]:
    if run.answered_by:
        word = "rejected" if run.state is _S.REJECTED else "approved"
        return f"{word} by {run.answered_by}", "", ""
    return "waits for a second person", "", ""


def _data(run: RetrainingView) -> tuple[str, str, str]:
    found, asked = run.data_set, run.collected
    if found is not None:
        return f"{found.records:,} records", f"{found.labelled:,} with a label", ""
    if run.state is _S.COLLECTING:
        return "collecting", f"{asked.answered} of {asked.asked} devices answered" if asked.asked else "", ""
    return f"{asked.records:,} records", f"of {asked.answered} device{'' if asked.answered == 1 else 's'}", ""


def _training(run: RetrainingView) -> tuple[str, str, str]:
    if run.state is _S.QUEUED:
        who = "a runner" if run.launcher is LauncherKind.RUNNER else run.launcher.value
        return f"waits for {who}", f"try {run.attempts + 1}" if run.attempts else "", ""
    who = run.holder or run.launcher.value
    return (f"on {who}" if run.holder else who), cut(run.progress), ""


def _release(run: RetrainingView) -> tuple[str, str, str]:
    if not run.release:
        return "", "", ""
    model, _, version = run.release.partition("@")
    words = "converted and signed" if run.state is not _S.CONVERTING else "being converted"
    if run.state is _S.STOPPED and not run.rollout:
        words = "worse than its parent"
    return run.release, words, f"/models/{quote(model, safe='')}/{quote(version, safe='')}"


def _rollout(run: RetrainingView) -> tuple[str, str, str]:
    words = {_S.ROLLING_OUT: "in its stages", _S.PROMOTED: "finished", _S.STOPPED: "stopped"}.get(run.state, "")
    return words, run.rollout, f"/rollouts/{quote(run.rollout, safe='')}" if run.rollout else ""


def _drift(run: RetrainingView, *, is_over: bool) -> LoopStep:
    if run.drift_after is None:
        return LoopStep(_NAMES["drift"], "never", "" if is_over else "not yet")
    kind, words = _DRIFT[run.drift_after.state]
    return LoopStep(
        _NAMES["drift"], kind, words, cut(run.drift_after.words), f"/models/{quote(run.model, safe='')}/drift"
    )


_WORDS: Final = {"approval": _approval, "data": _data, "training": _training, "release": _release, "rollout": _rollout}


def cut(text: str, most: int = MOST_CHARS) -> str:
    """Return a text that fits into a step, on one line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"


def waiting_first(runs: Sequence[RetrainingView]) -> list[RetrainingView]:
    """Return those that wait for a person, the newest first."""
    return [one for one in runs if one.state is _S.AWAITING_APPROVAL]
