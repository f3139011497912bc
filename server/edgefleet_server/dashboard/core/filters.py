"""How values are written for people: times, sizes, shares, states, trend lines. Pure; the templates use these as filters.

A state is always shown as a word; its tone only colours the word, so that colour alone carries no meaning.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from edgefleet_server.rollout.model import Verdict
from edgefleet_server.rollout.status.devices import RolloutDevice
from edgefleet_server.rollout.status.model import of_device
from edgefleet_terms.device_figures import figure_text, size_text

NOTHING: Final = "–"

_TONES: Final[Mapping[str, str]] = {
    "online": "good",
    "healthy": "good",
    "passed": "good",
    "finished": "good",
    "committed": "good",
    "advance": "good",
    "approved": "good",
    "running": "live",
    "ready": "good",
    "converting": "live",
    "queued": "live",
    "prepared": "warn",
    "unproven": "warn",
    "refused": "bad",
    "exposing": "live",
    "soaking": "live",
    "judging": "live",
    "downloading": "live",
    "acked": "live",
    "staged": "live",
    "parity_ok": "live",
    "applying": "live",
    "verifying": "live",
    "probation": "live",
    "paused": "warn",
    "pause": "warn",
    "held": "warn",
    "partial": "warn",
    "unsigned": "warn",
    "offline": "warn",
    "expired": "warn",
    "unconfirmed": "warn",
    "timed_out": "warn",
    "refuted": "warn",
    "confirmed": "bad",
    Verdict.PROVED.value: "bad",
    "withdrawn": "warn",
    "unreachable": "warn",
    "rolling_back": "bad",
    "rolled_back": "bad",
    "roll_back": "bad",
    "rollback_incomplete": "bad",
    "regressed": "bad",
    "failed": "bad",
    "lost": "bad",
    "revoked": "bad",
    "suspect": "warn",
    "critical": "bad",
    "warning": "warn",
    "firing": "bad",
    "rejected": "bad",
}

SEVERITY_KINDS: Final[Mapping[str, str]] = {"critical": "bad", "warning": "warn", "info": "run"}
"""The colour and shape of the severity of an alert, the worst first."""

_ASSIGNMENTS: Final[Mapping[str, str]] = {
    "eligible": "waiting for its stage",
    "offered": "was offered the release, has not accepted it yet",
    "acked": "accepted the release",
    "downloading": "downloading the bundle",
    "staged": "has the bundle, running its checks",
    "parity_ok": "passed the checks, warming up",
    "applying": "switching to it",
    "verifying": "running it on probation",
    "healthy": "runs it",
    "failed": "could not run it",
    "rolled_back": "is back on its previous release",
    "lost": "accepted it, then went silent; counts as failed",
    "unreachable": "did not accept it in time; not counted",
    "incompatible": "cannot run it; not counted",
    "superseded": "another release was deployed over it",
    "cancelled": "was removed before it switched",
    "regressed": "was healthy, then failed",
}


def tone(state: object) -> str:
    """Return the tone of a state: good, live, warn, bad or plain."""
    return _TONES.get(str(state), "plain")


def severity_kind(severity: object) -> str:
    """Return the colour and shape of a severity."""
    return SEVERITY_KINDS[str(severity)]


def label(state: object) -> str:
    """Return a state or kind as words."""
    text = "" if state is None else str(state)
    return text.replace("_", " ") or NOTHING


def moment(at: datetime | None) -> str:
    """Return a time in UTC to the second."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def machine_time(at: datetime) -> str:
    """Return a time as the `datetime` attribute of HTML takes it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, in its largest unit."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def duration(seconds: float | None) -> str:
    """Return a duration in its largest whole unit."""
    if seconds is None:
        return NOTHING
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def number(value: float | int | None, digits: int = 0) -> str:
    """Return a number with thin spaces between thousands."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(bytes_: int | float | None) -> str:
    """Return a size in bytes, in its largest binary unit; unknown below 0."""
    return NOTHING if bytes_ is None or bytes_ < 0 else size_text(bytes_)


def figure(value: float | str | None, unit: str, metric: str = "") -> str:
    """Return one side of a comparison. unit: as `telemetry.release_comparison` names it; metric: of a score."""
    if value is None or isinstance(value, str):
        return value or NOTHING
    match unit:
        case "bytes":
            return size(value)
        case "ms":
            return figure_text("p95_ms", value)
        case "share":
            return f"{value:.2%}"
        case "score":
            return f"{metric} {value:.4f}".lstrip()
        case _:
            return number(value)


def share(part: float, whole: float) -> float:
    """Return a share in percent of a bar, 0 for an empty whole."""
    return 0.0 if whole <= 0 else round(100.0 * min(part, whole) / whole, 2)


def evidence(value: Any) -> str:
    """Return one figure of a decision."""
    if isinstance(value, float):
        return number(value) if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {evidence(one)}" for key, one in value.items()) or NOTHING
    return NOTHING if value in (None, "") else str(value)


def times(value: float | None) -> str:
    """Return how many times something is, in two digits: "0.38×", "14×"."""
    if value is None:
        return NOTHING
    if 0 < value < 0.01:
        return "< 0.01×"
    return f"{number(round(value)) if value >= 10 else format(value, '.2g')}×"


def assignment(device: RolloutDevice, release: str) -> str:
    """Return what one device of a rollout of `release` is doing: its state, what makes it special, and the reason given."""
    is_away = device.online == "offline"
    state = _ASSIGNMENTS.get(device.state, label(device.state))
    if device.state == "healthy" and device.running != release:
        state = f"was healthy; now runs {device.running or 'no version of this model'}"
    if device.state == "rolled_back" and not device.running:
        state = "no longer runs it"
    if device.state == "offered" and is_away:
        state = "offline; gets the release when it connects"
    notes = [state]
    if device.is_joiner:
        notes.append("joined during the stage")
    if device.is_accepted:
        notes.append("its failure was accepted by a person")
    if is_away and device.state not in {"offered", "lost", "unreachable"}:
        notes.append("offline now")
    text = "; ".join(notes)
    return f"{text} – {device.reason}" if device.reason else text


def wait_text(device: RolloutDevice) -> str:
    """Return what a device of a rollout waits for, as the beginning of a sentence."""
    return sentence(of_device(device.waits_for))


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning; a name there (`ocr@1.0.0`, `generic-x86_64-ort`) keeps its small letters."""
    is_name = any(sign in text.partition(" ")[0] for sign in "@_/0123456789")
    return text if is_name else text[:1].upper() + text[1:]


WIDTH: Final = 72

HEIGHT: Final = 18

_EDGE: Final = 1.5


def trend_line(values: Sequence[float | None]) -> str:
    """Return the points of an SVG polyline over WIDTH × HEIGHT: oldest left, the highest at the top; what is not known is left out."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if not known:
        return ""
    low, high = min(value for _, value in known), max(value for _, value in known)
    step = WIDTH / max(1, len(values) - 1)
    span = high - low
    inner = HEIGHT - 2 * _EDGE

    def point(place: int, value: float) -> str:
        y = HEIGHT / 2 if span <= 0 else _EDGE + inner * (1 - (value - low) / span)
        return f"{place * step:.1f},{y:.1f}"

    points = [point(place, value) for place, value in known]
    return " ".join(points if len(points) > 1 else [f"0,{HEIGHT / 2}", f"{WIDTH},{HEIGHT / 2}"])


def epoch(seconds: float) -> str:
    """Return a moment of a chart, in seconds since 1970, in UTC to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
