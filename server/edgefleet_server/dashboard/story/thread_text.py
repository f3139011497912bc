"""A thread of happenings as one line of a story: what happened, why, and where its events are. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from edgefleet_server.dashboard.core.filters import duration, label, number, sentence
from edgefleet_server.dashboard.story.event_ids import packed
from edgefleet_server.dashboard.story.model import Happening, Piece, StoryLine, Thread, Tone
from edgefleet_server.telemetry.timelines.marks import without_severity

NAMED: Final = 3
UNNAMED: Final = "one without a name"
LEAST_S: Final = 1.0
GOOD: Final = ("healthy", "committed")
BAD: Final = ("failed", "rolled_back", "lost", "regressed")
UNDER_WAY: Final = (
    "acked", "downloading", "verifying", "staged", "parity_ok", "applying", "preflight", "golden", "warming", "switching",
    "probation",
)  # fmt: skip
Told = tuple[Tone, str, Sequence[Piece], str]


def line_of(thread: Thread) -> StoryLine:
    """Return a thread as a line."""
    tone, icon, what, why = _TELLERS.get(thread.kind, _other)(thread)
    what = [one if one.text.strip() or not one.href else replace(one, text=UNNAMED) for one in what]
    events = sum(one.is_event for one in thread.happenings)
    return StoryLine(thread.last.at, tone, icon, what, why, events, _address(thread) if events else "")


def _address(thread: Thread) -> str:
    """Return the page of exactly these events: no other filter says which they are, for what a device reports names no rollout."""
    return "/events?" + urlencode({"ids": packed(one.event for one in thread.happenings if one.is_event)})


def _installs(thread: Thread) -> Told:
    release = next((one.release for one in thread.happenings if one.release), "") or thread.first.model or "a release"
    stage = next((one.stage for one in thread.happenings if one.stage), "")
    done, failed, busy = thread.devices(*GOOD), thread.devices(*BAD), thread.devices(*UNDER_WAY)
    link = Piece(release, _release_address(release, thread))
    reason = next((one.reason for one in reversed(thread.happenings) if one.to in BAD and one.reason), "")
    why = [f"Stage {stage}"] if stage else []
    if done:
        tone, icon = (Tone.WARN, "warn") if failed else (Tone.RUN, "run") if busy else (Tone.OK, "ok")
        what = [*_devices(done), Piece(" installed "), link, Piece(_span(thread, done))]
        why += [f"{len(failed)} failed"] if failed else []
    elif failed:
        tone, icon = Tone.BAD, "bad"
        what = [link, Piece(" failed on "), *_devices(failed)]
    elif busy:
        tone, icon = Tone.RUN, "run"
        what = [*_devices(busy), Piece(" install" if len(busy) != 1 else " installs"), Piece(" "), link]
    else:
        every = thread.devices()
        tone, icon = Tone.MUTED, "send"
        what = [link, Piece(" was offered to "), *_devices(every)] if every else [link, Piece(": stage opened")]
    waits = len(thread.devices("offered", "eligible"))
    why += [f"{len(busy)} still at it"] if busy and done else []
    why += [f"{waits} did not take it yet"] if waits and (done or failed or busy) else []
    by = next((one.by for one in thread.happenings if one.by), "")
    why += [f"deployed by {by}"] if by and not stage else []
    return tone, icon, what, _sentences(why, reason)


def _rollouts(thread: Thread) -> Told:
    last = thread.last
    release = Piece(last.release or last.rollout, f"/rollouts/{last.rollout}")
    by = next((one.by for one in reversed(thread.happenings) if one.by), "")
    reason = next((one.reason for one in thread.happenings if one.to in _TURNED and one.reason), last.reason)
    people = f" by {by}" if by else ""
    match last.to:
        case "rolling_back":
            return Tone.BAD, "bad", [release, Piece(f" is going back{people or ' automatically'}")], _why(reason)
        case "rolled_back":
            return Tone.BAD, "bad", [release, Piece(f" was rolled back{people or ' automatically'}")], _why(reason)
        case "regressed":
            return Tone.BAD, "bad", [release, Piece(" got worse after it was rolled out")], _why(reason)
        case "rollback_incomplete":
            return Tone.BAD, "bad", [release, Piece(" could not go back everywhere")], _why(last.reason)
        case "paused":
            return Tone.WARN, "warn", [release, Piece(f" was paused{people or ' automatically'}")], _why(reason)
        case "finished":
            return Tone.OK, "ok", [release, Piece(" is rolled out")], _why(reason)
        case "cancelled":
            return Tone.OFF, "hand", [release, Piece(f" was aborted{people}")], _why(reason)
        case "superseded":
            return Tone.OFF, "hand", [release, Piece(" was replaced by a newer rollout")], _why(reason)
        case "awaiting_approval":
            return Tone.WARN, "warn", [release, Piece(" waits for an approval")], _why(reason)
    verb = "resumed the rollout of " if last.before in {"paused", "finished"} else "started the rollout of "
    begin = [Piece(f"{by} {verb}"), release] if by else [Piece("The rollout of "), release, Piece(" began")]
    return Tone.RUN, "run", begin, ""


_TURNED: Final = ("rolling_back", "paused", "finished", "cancelled", "superseded", "regressed")


def _offline(thread: Thread) -> Told:
    devices, site = thread.devices(), thread.first.site
    place = f" in {site}" if site else ""
    span = (thread.last.at - thread.first.at).total_seconds()
    within = f" within {duration(max(span, LEAST_S))}" if len(devices) > 1 else ""
    what = [*_devices(devices), Piece(f"{place if len(devices) > 1 else ''} went offline{within}")]
    return Tone.OFF, "off", what, _names(devices, "Still away: ")


def _absences(thread: Thread) -> Told:
    """Tell when one device was away: it is back."""
    n, last = sum(one.times for one in thread.happenings), thread.last
    is_many = len(thread.happenings) > 1
    often = f" was away {n} times; {'the last time' if last.times == 1 else 'in the end'} it " if is_many else " "
    tone = Tone.OFF if any(one.to == "offline" for one in thread.happenings) else Tone.MUTED
    return tone, "off", [*_devices(thread.devices()), Piece(often + last.title)], ""


def _enrolled(thread: Thread) -> Told:
    devices = {one.device: one.name or one.device for one in thread.happenings if one.kind == "enrolled"}
    by = next((one.by for one in thread.happenings if one.by), "")
    asks = [one for one in thread.happenings if one.kind == "pending"]
    if devices:
        what = [*_devices(devices), Piece(" enrolled")]
    elif asks:
        what = [Piece(f"{_counted(len(asks), 'device')} asked to enrol", "/enrolment")]
    else:
        return (
            Tone.MUTED,
            "plus",
            [Piece(f"A request to enrol was {thread.last.kind}")],
            _sentences([f"by {by}"] if by else [], ""),
        )
    return Tone.MUTED, "plus", what, _names(devices, more=[f"approved by {by}"] if by else [])


def _alerts(thread: Thread) -> Told:
    title, is_over = without_severity(thread.last.title) or "An alert", thread.last.to == "resolved"
    fired = any(one.to == "firing" for one in thread.happenings)
    if is_over:
        span = (thread.last.at - thread.first.at).total_seconds()
        said = f" fired and ended after {duration(max(span, LEAST_S))}" if fired else " ended"
        return Tone.OK, "ok", [Piece(title, "/alerts"), Piece(said)], ""
    return Tone.WARN, "warn", [Piece(title, "/alerts"), Piece(" fires")], ""


def _drift(thread: Thread) -> Told:
    model = thread.first.model or "a model"
    state = {one.device: one.kind for one in thread.happenings}
    drifting = {device: name for device, name in thread.devices().items() if state[device] != "drift_over"}
    link = Piece(model, f"/models/{model}")
    if drifting:
        return Tone.WARN, "warn", [link, Piece(" drifts on "), *_devices(drifting)], _names(drifting)
    return Tone.OK, "ok", [link, Piece(" drifts no more on "), *_devices(thread.devices())], ""


def _published(thread: Thread) -> Told:
    last = thread.last
    who = f"{last.by} published " if last.by else "Published: "
    return (
        Tone.MUTED,
        "doc",
        [Piece(who), Piece(last.release, _release_address(last.release, thread))],
        _why(last.reason),
    )


def _release(thread: Thread) -> Told:
    last = thread.last
    what = [
        Piece(last.release, _release_address(last.release, thread)),
        Piece(f" was {label(last.to)}{f' by {last.by}' if last.by else ''}"),
    ]
    return Tone.WARN, "warn", what, _why(last.reason)


def _crashes(thread: Thread) -> Told:
    model, devices = thread.first.model or "A model", thread.devices()
    n = len(thread.happenings)
    often = "" if n == 1 else f" {n} times"
    what = [Piece(model, f"/models/{model}"), Piece(f" had trouble{often} on "), *_devices(devices)]
    return Tone.BAD, "bad", what, _why(next((one.reason for one in reversed(thread.happenings) if one.reason), ""))


def _rolled_back(thread: Thread) -> Told:
    what = [
        *_devices(thread.devices()),
        Piece(" went back by itself" if len(thread.devices()) == 1 else " went back by themselves"),
    ]
    return Tone.WARN, "warn", what, _why(next((one.reason for one in thread.happenings if one.reason), ""))


def _tasks(thread: Thread) -> Told:
    by = next((one.by for one in thread.happenings if one.by), "")
    kind = next((one.title for one in thread.happenings if one.title), "task")
    what = [Piece(f"{by} asked " if by else "A task went to "), *_devices(thread.devices()), Piece(f": {label(kind)}")]
    return Tone.MUTED, "send", what, ""


def _booted(thread: Thread) -> Told:
    return Tone.MUTED, "run", [*_devices(thread.devices()), Piece(" restarted")], ""


def _revoked(thread: Thread) -> Told:
    devices = thread.devices()
    what = [*_devices(devices), Piece(" was revoked" if len(devices) == 1 else " were revoked")]
    return Tone.OFF, "off", what, _names(devices)


def _other(thread: Thread) -> Told:
    devices = thread.devices()
    n = len(thread.happenings)
    often = f", {n} times" if n > max(1, len(devices)) else ""
    what = (
        [*_devices(devices), Piece(f": {label(thread.kind)}{often}")]
        if devices
        else [Piece(f"{label(thread.kind).capitalize()}{often}")]
    )
    return Tone.MUTED, "doc", what, _why(thread.last.reason)


_TELLERS: Final[Mapping[str, Callable[[Thread], Told]]] = {
    "install": _installs,
    "rollout": _rollouts,
    "offline": _offline,
    "absence": _absences,
    "enrolled": _enrolled,
    "alert": _alerts,
    "drift": _drift,
    "published": _published,
    "release": _release,
    "crash": _crashes,
    "rollback": _rolled_back,
    "task": _tasks,
    "boot": _booted,
    "revoked": _revoked,
}


def _release_address(release: str, thread: Thread) -> str:
    rollout = next((one.rollout for one in thread.happenings if one.rollout), "")
    if rollout:
        return f"/rollouts/{rollout}"
    model, _, version = release.partition("@")
    return f"/models/{model}/{version}" if version else f"/models/{model}"


def _devices(devices: Mapping[str, str]) -> list[Piece]:
    """Return how many devices, or the only one by its name."""
    if len(devices) == 1:
        device, name = next(iter(devices.items()))
        return [Piece(name, f"/devices/{device}")]
    return [Piece(_counted(len(devices), "device"))]


def _counted(n: int, noun: str) -> str:
    return f"{number(n)} {noun}{'' if n == 1 else 's'}"


def _names(devices: Mapping[str, str], intro: str = "", *, more: Collection[str] = ()) -> str:
    """Return the names of a few devices; of many that follow, only how many."""
    if len(devices) < 2:
        return _sentences(list(more), "")
    names = list(devices.values())
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return _sentences([f"{intro}{shown}", *more], "")


def _span(thread: Thread, done: Collection[str]) -> str:
    """Return how long installing took: from the first that anyone heard of it to the last device that was done."""
    ends = [one.at for one in thread.happenings if one.device in done and one.to in GOOD]
    begun: list[Happening] = [one for one in thread.happenings if one.device in done]
    seconds = (max(ends) - begun[0].at).total_seconds()
    return f" in {duration(seconds)}" if seconds >= LEAST_S else ""


def _why(reason: str) -> str:
    return _sentences([], reason)


def _sentences(parts: Sequence[str], reason: str) -> str:
    """Return parts as one sentence, and a reason as another."""
    first = ", ".join(parts)
    found = [_capitalised(text) for text in (first, reason) if text]
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in found)


def _capitalised(text: str) -> str:
    """Return a text that begins with a capital; a name that it begins with stays as it is."""
    return sentence(text) if text.partition(" ")[0].isalpha() else text
