"""Is it safe to promote? The answer of a rollout's page, in one sentence with its reason; and the head of a page that has ended. Pure.

The rules of the server decide, never these words: safe is what may pass by them. A silent device, a failure that waits for
confirmation and a stage in which nothing was measured are no yes.
"""

from dataclasses import dataclass
from datetime import datetime
from textwrap import shorten
from typing import Final

from edgefleet_server.dashboard.rollout_page.stage_steps import soak_end, span
from edgefleet_server.rollout.spec.fields import NO_ROLLBACK, PREVIOUS
from edgefleet_server.rollout.status.reader import RolloutView, StageView
from edgefleet_server.rollout.status.whereabouts import TURNED_BAD, DeviceFlow, Recovery, WayBack

OPEN_STATES: Final = ("exposing", "soaking", "judging")
ENOUGH: Final = "finishing"
"""Code of a last stage that may pass by its rule, and is kept open for the devices that are still on their way."""
_STATES: Final = {
    "draft": ("off", "wait", "Draft"),
    "validating": ("off", "wait", "Queued"),
    "running": ("run", "run", "Running"),
    "paused": ("warn", "pause", "Paused"),
    "awaiting_approval": ("warn", "hand", "Awaiting approval"),
    "finished": ("ok", "ok", "Finished"),
    "rolling_back": ("bad", "undo", "Rolling back"),
    "rolled_back": ("bad", "bad", "Rolled back"),
    "rollback_incomplete": ("bad", "bad", "Rollback incomplete"),
    "regressed": ("bad", "bad", "Regressed"),
    "cancelled": ("off", "x", "Aborted"),
    "superseded": ("off", "swap", "Superseded"),
}
SHORT: Final = 110
"""Characters of a reason in the head."""
BACK: Final = ("rolling_back", "rolled_back", "rollback_incomplete")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the page answers. kind: ok, run, warn, bad or off; at, rest: a time that follows the text, and what follows that."""

    kind: str
    icon: str
    title: str
    text: str
    at: datetime | None = None
    rest: str = ""


def answer(rollout: RolloutView, flow: DeviceFlow) -> Answer:
    """Return whether it is safe to promote the open stage."""
    if rollout.state == "awaiting_approval":
        return Answer("warn", "hand", "It waits for an approval", _before_approval(rollout))
    if rollout.state == "paused":
        return Answer("warn", "pause", "Paused", sentence(rollout.reason))
    if rollout.state != "running":
        return Answer("off", "wait", "Nothing to promote", "The rollout does not run.")
    stage = _open_stage(rollout)
    if stage is None:
        text = sentence(rollout.reason)
        return Answer("run", "wait", "No stage is open", text)
    return _of_stage(stage, flow)


def _before_approval(rollout: RolloutView) -> str:
    is_word = any(one.strength == "override" for stage in rollout.stages for one in stage.strata)
    how = "not all of it by its rules: a person promoted a stage" if is_word else "by its rules"
    return f"Everything before it passed, {how}. An approval opens the next stage."


def _open_stage(rollout: RolloutView) -> StageView | None:
    """Return the stage that counts: one in which something failed or is held, else the first that is open."""
    held = [one for one in rollout.stages if one.state in ("failed", "held")]
    return next(iter([*held, *(one for one in rollout.stages if one.state in OPEN_STATES)]), None)


def _of_stage(stage: StageView, flow: DeviceFlow) -> Answer:
    failed = sum(one.counts.failed for one in stage.strata)
    so_far = _so_far(stage)
    if any(question.verdict == "open" for cell in stage.strata for question in cell.confirmations):
        return Answer("warn", "warn", "Not now", "A failure waits for confirmation by other devices.")
    may_pass = [one for one in stage.strata if one.verdict == "advance" or one.code == ENOUGH]
    if may_pass and len(may_pass) == len(stage.strata):  # the rule has counted what failed and what is silent
        going = [one for one in may_pass if one.state in OPEN_STATES] or may_pass
        return Answer("ok", "shield", "Safe to promote", sentence(going[0].reason))
    if failed:
        return Answer(
            "warn", "warn", "Not safe to promote", f"{failed} device{'' if failed == 1 else 's'} failed. {so_far}."
        )
    if stage.state == "held":
        return Answer("warn", "hand", "A person decides", sentence(stage.reason))
    if not any(one.counts.exposed for one in stage.strata):
        return Answer("run", "wait", "Not yet", "No device has accepted it: nothing is known yet.")
    if flow.silent:
        text = f"{_devices(flow.silent)} silent, which never counts as good. {so_far}, none failed."
        return Answer("warn", "warn", "Not yet", text)
    ends = soak_end(stage)
    if stage.state == "soaking" and ends is not None:
        return Answer("run", "clock", "Not yet", "The soak ends at", ends, f". {so_far} so far, none failed.")
    if stage.state == "judging":
        return Answer("run", "clock", "Not yet", f"The soak is over. {sentence(stage.reason)} {so_far}, none failed.")
    return Answer("run", "run", "Not yet", f"Devices still install it. {so_far} so far, none failed.")


def _so_far(stage: StageView) -> str:
    """Return how many devices of a stage and those before it have the release, of how many that took it up or are to."""
    counts = [one.counts for one in stage.strata]
    of = sum(one.members - one.unreachable for one in counts)
    healthy, soaking = sum(one.healthy for one in counts), sum(one.pending for one in counts)
    if not of:
        return "No device has accepted it"
    if not soaking:
        return f"{healthy} of {of} devices are healthy"
    through = f", {healthy} through {'its' if healthy == 1 else 'their'} soak" if healthy else ""
    return f"{healthy + soaking} of {of} devices have it{through}"


def _devices(count: int) -> str:
    return "1 device is" if count == 1 else f"{count} devices are"


def sentence(text: str) -> str:
    """Return a reason as a sentence, "" for none. A name at its beginning keeps its small letters."""
    text = text.strip()
    if not text:
        return ""
    begins = text[:1].upper() if text.partition(" ")[0].strip(":,;").isalpha() else text[:1]
    return f"{begins}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


# ---- the head


@dataclass(frozen=True, slots=True)
class Head:
    """What a page begins with. kind: of the state; word: the state as people say it; lead: what replaces what; says: how it stands.

    doing: what goes on now, or why nothing does, without its full stop.
    """

    kind: str
    icon: str
    word: str
    lead: str
    says: str
    doing: str = ""


def head(rollout: RolloutView, flow: DeviceFlow, replaced: tuple[str, ...]) -> Head:
    """Return the head of a rollout's page."""
    kind, icon, word = state_of(rollout)
    have = flow.soaking + flow.healthy
    says = f"{_has(have)}, {'none' if not flow.failed else flow.failed} failed"
    if flow.silent:
        says += f", {flow.silent} silent"
    lead = _replaces(rollout, flow.total, replaced)
    return Head(kind, icon, word, lead, f"{says}.", _doing(rollout))


def _doing(rollout: RolloutView) -> str:
    """Return what goes on; the devices are counted elsewhere, where healthy and soaking are told apart.

    A long reason is cut: the answer has all of it.
    """
    now = rollout.outlook
    if now is None:
        return shorten(sentence(rollout.reason).removesuffix("."), SHORT, placeholder="…")
    if now.phase not in ("installing", "soaking", "judging"):
        return now.text
    doing, _, rest = now.text.partition(":")
    more = rest.partition(";")[2]
    return f"{doing};{more}" if more else doing


def _has(count: int) -> str:
    return "No device has it" if not count else "1 has it" if count == 1 else f"{count} have it"


def _replaces(rollout: RolloutView, total: int, replaced: tuple[str, ...]) -> str:
    others = [one.partition("@")[2] if one.startswith(f"{rollout.model}@") else one for one in replaced]
    others = [one for one in others if one != rollout.version]
    what = f"Replaces {others[0]}{f' and {len(others) - 1} more' if len(others) > 1 else ''}" if others else "Goes"
    where = f" where {rollout.selector}" if rollout.selector else ""
    return f"{what} {'on' if others else 'to'} {total} device{'' if total == 1 else 's'}{where}."


def state_of(rollout: RolloutView) -> tuple[str, str, str]:
    """Return the kind, the icon and the word of a rollout's state: what a person ended is no failure of the release."""
    by = rollout.stopped_by
    if by and rollout.counts.failed == 0 and rollout.state in (*BACK, "cancelled", "failed"):
        word = {"rolled_back": "Rolled back", "rolling_back": "Rolling back"}.get(rollout.state, "Stopped")
        return "off", "hand", f"{word} by {by}"
    if rollout.state == "finished" and rollout.is_partial:
        return "warn", "warn", "Finished in part"
    return _STATES.get(rollout.state, ("bad", "bad", rollout.state.replace("_", " ").capitalize()))


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a rollout that has ended or goes back. tiles: (title, value, unit); kind: of the hero."""

    kind: str
    icon: str
    title: str
    lead: str
    tiles: tuple[tuple[str, str, str], ...]


def ending(rollout: RolloutView, flow: DeviceFlow, recovery: Recovery, stopped_at: datetime | None) -> Ending | None:
    """Return the head of one that went back or turned out bad, None for any other. stopped_at: when it was decided."""
    if rollout.state not in TURNED_BAD:
        return None
    by, failed = rollout.stopped_by, rollout.counts.failed
    who = f"by {by}" if by else "automatically"
    is_over = rollout.state == "rolled_back"
    if rollout.state == "regressed":
        title = f"{rollout.release} finished and turned out bad"
    elif is_over:
        title = f"{rollout.release} was stopped and rolled back {who}"
    else:
        title = f"{rollout.release} was stopped {who}; devices go back"
    kind = "off" if by and not failed else "ok" if is_over else "bad"  # all is well again where every device is back
    ran = recovery.exposed
    rest = "Every device that had it is back." if is_over else f"{recovery.back} of {ran} confirmed that they are back."
    if rollout.state == "regressed":
        rest = "It still runs on devices. A person takes it back."
    total = max(flow.total, ran)
    tiles = [("Devices that ever ran it", str(ran), f"of {total}")]
    first, last = recovery.first_failed_at, recovery.last_back_at
    if first is not None and stopped_at is not None and stopped_at >= first:
        tiles.append(("First failed device to the decision", *_figure(stopped_at, first)))
    if last is not None and (first or stopped_at) is not None and is_over:
        begin = first or stopped_at
        assert begin is not None
        word = "First failed device to the last one back" if first else "Decision to the last device back"
        tiles.append((word, *_figure(last, begin)))
    why = sentence(_said_by(by, rollout.reason) if by else rollout.reason)
    return Ending(kind, "shield" if is_over else "undo", title, f"{why} {rest}", tuple(tiles))


def _said_by(name: str, reason: str) -> str:
    """Return what a person said who ended it: once, though each stratum has it as its reason."""
    _, found, why = reason.partition(f"by {name}: ")
    return f"{name} said: {why.partition(';')[0]}" if found else f"{name} gave no reason"


def _figure(end: datetime, begin: datetime) -> tuple[str, str]:
    value, _, unit = span(max(end - begin, begin - begin)).rpartition(" ")
    return value, unit


def cost_of(back: WayBack, release: str, to: str = PREVIOUS) -> str:
    """Return what rolling back would cost, as a sentence. to: what devices go back to, as the spec says."""
    if to == NO_ROLLBACK:
        return f"The spec says `rollback_to: none`: devices that run {release} keep it."
    if back.bytes is None:
        target = "its previous release" if to == PREVIOUS else to
        return (
            f"Each of the {back.devices} devices goes back to {target}; what it downloads for that is not known here."
        )
    if back.devices == 0:
        return "No device has it: the rollout only ends."
    if back.bytes:
        return f"{back.downloads} of {back.devices} devices have to download their previous release."
    kept = back.devices - back.without
    parts = [
        f"The other slot of {'each device' if not back.without else f'{kept} of them'} still holds its previous release"
    ]
    if back.without:
        parts = parts if kept else []
        parts.append(
            f"{back.without} ran no version of the model before and stop{'s' if back.without == 1 else ''} {release}"
        )
    return f"{'; '.join(parts)}. Nothing to download."
