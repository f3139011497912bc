"""Reads the fields of a spec that say how fast and when, and writes them. Pure.

They are `rate`, `limits`, `windows`, `offline`, `device.retries` and `device.start_within`.

Reference: docs/reference/rollout-spec.md.
"""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, model_validator

from edgefleet_protocol.messages import TRANSIENT, ErrorClass
from edgefleet_server.rollout.spec.fields import (
    SPOILT,
    Advice,
    Checked,
    ExpectedError,
    Maybe,
    Mistake,
    Part,
    Read,
    duration,
    given,
    in_words,
    listed,
    number,
    read_duration,
    shown,
    stop_at,
    text,
    whole,
)
from edgefleet_server.rollout.spec.maintenance_windows import cron_flaw, zone
from edgefleet_server.rollout.spec.model import (
    DEFAULT_FACTOR,
    DEFAULT_MAX,
    TZ_DEVICE,
    CountAs,
    DeviceDeadlines,
    Limits,
    Offline,
    Pacing,
    Rate,
    Retries,
    Window,
    duration_text,
)

MAX_PER_MIN: Final = 3000
"""The way back is at least ten times as fast; more than the engine writes in a tenth of its time could not keep that."""
MAX_FACTOR: Final = 10.0
MAX_DOWNLOADS: Final = 1_000_000
MAX_BITS: Final = 10**12
MIN_BITS: Final = 8000
MAX_WINDOWS: Final = 16
MAX_WINDOW: Final = timedelta(days=7)
MAX_RETRIES: Final = 20

_ON_RETURN: Final = "join"
"""What happens when a device comes back that stayed away: the one word that `on_return` takes."""
_RATE: Final = re.compile(r"([0-9]{1,9})/min")
_BITS: Final = re.compile(r"([0-9]{1,9})([kMG]?)bps")
_SIZES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_SPAN: Final = re.compile(r"([0-9]{1,9}[smhd])\.\.([0-9]{1,9}[smhd])")


def _matching(pattern: re.Pattern[str]) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern.pattern}$"}


# ---- rate


def _per_min(value: Any) -> int:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 1 <= int(found[1]) <= MAX_PER_MIN:
        raise ExpectedError(f"devices a minute from 1/min to {MAX_PER_MIN}/min")
    return int(found[1])


def _factor(value: float) -> float:
    if value < 1:
        raise ValueError(f"expected at least 1, got {value:g}: a rate does not fall by itself")
    return value


PerMin = Annotated[int, Read(_per_min, _matching(_RATE))]


class RateIn(Checked):
    """How many devices a minute are offered the release: in the first minute, what a good minute multiplies it by, the most."""

    start: Annotated[PerMin, Advice("write for example 50/min")]
    factor: Annotated[float, number(0, MAX_FACTOR), AfterValidator(_factor)] = DEFAULT_FACTOR
    max: Maybe[PerMin] = None

    def flaws(self) -> Iterator[Mistake]:
        """Yield what does not fit."""
        start, most = self.start, self.max
        if most is not None and SPOILT not in (start, most) and most < start:
            yield ("max",), f"{most}/min is less than start ({start}/min); write a max of at least {start}/min"

    def rate(self) -> Rate:
        """Return the rate."""
        return Rate(self.start, self.factor, max(self.start, DEFAULT_MAX) if self.max is None else self.max)


def dump_rate(rate: Rate | None) -> dict[str, Any] | None:
    """Return the normal form of a stage's rate; None: it has none."""
    if rate is None:
        return None
    return {"start": f"{rate.start}/min", "factor": rate.factor, "max": f"{rate.max}/min"}


# ---- limits, windows, offline


def _bits(value: Any) -> int:
    found = _BITS.fullmatch(value) if isinstance(value, str) else None
    bits = int(found[1]) * _SIZES[found[2]] if found is not None else 0
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ExpectedError("bits a second from 8kbps to 1000Gbps, for example 200Mbps")
    return bits


Downloads = Annotated[int, whole(1, MAX_DOWNLOADS)]


class LimitsIn(Part):
    """How much may be under way at once: downloads in all, downloads at one site, bits a second of bundles begun."""

    concurrent_downloads: Downloads | None = None
    per_site: Downloads | None = None
    bandwidth: Annotated[int, Read(_bits, _matching(_BITS))] | None = None

    def limits(self) -> Limits:
        """Return the limits."""
        return Limits(self.concurrent_downloads, self.per_site, self.bandwidth)


def _cron(value: Any) -> str:
    expression = text(value)
    if flaw := cron_flaw(expression):
        raise ValueError(f"{shown(value)} is no cron expression: {flaw}")
    return " ".join(expression.split())


def _tz(value: Any) -> str:
    name = text(value)
    if name != TZ_DEVICE and zone(name) is None:
        raise ExpectedError("device, UTC or a time zone such as Europe/Berlin")
    return name


def _within_a_week(value: timedelta) -> timedelta:
    if value > MAX_WINDOW:
        raise ExpectedError(f"at most {duration_text(MAX_WINDOW)}")
    return value


class WindowIn(Part):
    """When devices may be offered the release: from each start that `cron` names, for `duration`, on the clock of `tz`."""

    cron: Annotated[str, Read(_cron, {"type": "string"}), Advice('write for example "0 1 * * *": each night at one')]
    duration: Annotated[
        timedelta, duration(positive=True), AfterValidator(_within_a_week), Advice("write for example 4h")
    ]
    tz: Annotated[str, Read(_tz, {"type": "string"})] = TZ_DEVICE

    def window(self) -> Window:
        """Return the window."""
        return Window(self.cron, self.duration, self.tz)


def _on_return(value: Any) -> str:
    if value != _ON_RETURN:
        raise ExpectedError(_ON_RETURN)
    return _ON_RETURN


class OfflineIn(Part):
    """After how long without a word a device that is due counts as away, and as what. after: `ack_deadline` unless written."""

    after: Maybe[Annotated[timedelta, duration(positive=True)]] = None
    count: CountAs = CountAs.EXCLUDED
    on_return: Annotated[str, Read(_on_return, {"const": _ON_RETURN})] = _ON_RETURN

    def offline(self, usual: timedelta) -> Offline:
        """Return the rule; usual: `after` where it is not written."""
        return Offline(given(self.after, usual), self.count)


def dump_pacing(pacing: Pacing) -> dict[str, Any]:
    """Return the normal form of `limits`, `windows` and `offline`; `retries` stands below `device` (`dump_retries`)."""
    limits = pacing.limits
    bandwidth = None if limits.bandwidth_bps is None else _bits_text(limits.bandwidth_bps)
    return {
        "limits": {
            "concurrent_downloads": limits.concurrent_downloads,
            "per_site": limits.per_site,
            "bandwidth": bandwidth,
        },
        "windows": [
            {"cron": one.cron, "duration": duration_text(one.duration), "tz": one.tz} for one in pacing.windows
        ],
        "offline": {
            "after": duration_text(pacing.offline.after),
            "count": pacing.offline.count.value,
            "on_return": _ON_RETURN,
        },
    }


def _bits_text(bits: int) -> str:
    for unit in ("G", "M", "k"):
        if bits % _SIZES[unit] == 0:
            return f"{bits // _SIZES[unit]}{unit}bps"
    return f"{bits}bps"


# ---- device


_BACKOFF: Final = (Retries().least, Retries().most)


def _backoff(value: Any) -> tuple[timedelta, timedelta]:
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ExpectedError("the first and the longest wait, for example 2m..1h")
    mistakes, ends = list[Mistake](), list(_BACKOFF)
    for index, end in enumerate(found.groups()):
        try:
            ends[index] = read_duration(end, positive=True)
        except ExpectedError as error:
            mistakes.append(((), in_words(error, end)))
    if ends[1] < ends[0]:
        mistakes.append(((), f"the longest wait is shorter than the first one; write {found[2]}..{found[1]}"))
    stop_at(mistakes)
    return ends[0], ends[1]


def _classes(value: Any) -> tuple[ErrorClass, ...]:
    items = listed(value)
    stop_at(((index,), _class_flaw(item)) for index, item in enumerate(items) if item not in _CLASSES)
    return tuple(dict.fromkeys(ErrorClass(item) for item in items))


def _class_flaw(item: Any) -> str:
    is_permanent = isinstance(item, str) and item in [one.value for one in ErrorClass]
    why = "is never tried again: it lies in the bundle" if is_permanent else "is no such class"
    return f"{shown(item)} {why}; expected some of {', '.join(_CLASSES)}"


_CLASSES: Final = sorted(one.value for one in TRANSIENT)
_TRANSIENT_SCHEMA: Final = {"type": "array", "items": {"enum": _CLASSES}}


class RetriesIn(Part):
    """How often the server offers the release again after a failure of these classes, and after which wait."""

    max: Annotated[int, whole(0, MAX_RETRIES)] = Retries().max
    backoff: Maybe[Annotated[tuple[timedelta, timedelta], Read(_backoff, _matching(_SPAN))]] = None
    on: Annotated[tuple[ErrorClass, ...], Read(_classes, _TRANSIENT_SCHEMA)] = Retries().on

    @model_validator(mode="before")
    @classmethod
    def _with_on(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # YAML 1.1 reads the key `on` as true, and JSON writes that as "true"
        fields = {"on" if key is True or key == "true" else key: one for key, one in value.items()}
        return fields | {"on": SPOILT} if value.get("on") is SPOILT else fields

    def retries(self) -> Retries:
        """Return the rule."""
        least, most = self.backoff or _BACKOFF
        return Retries(self.max, least, most, self.on)


Deadline = Annotated[timedelta, duration(positive=True)]
_USUAL: Final = DeviceDeadlines()


class DeviceTermsIn(Checked):
    """How long a device may take for each step, and how it tries again. start_within: over how long devices begin to download."""

    ack_deadline: Deadline = _USUAL.ack
    download_deadline: Deadline = _USUAL.download
    apply_deadline: Deadline = _USUAL.apply
    verify_deadline: Deadline = _USUAL.verify
    retries: RetriesIn | None = None
    start_within: Annotated[timedelta, duration()] | None = None

    def flaws(self) -> Iterator[Mistake]:
        """Yield what does not fit."""
        download = given(self.download_deadline, _USUAL.download)
        if given(self.start_within, timedelta()) >= download:
            why = (
                f"the wait is part of download_deadline ({duration_text(download)}), so it must be shorter than that; "
                "write a shorter one, or a longer download_deadline"
            )
            yield ("start_within",), why

    def deadlines(self) -> DeviceDeadlines:
        """Return the deadlines."""
        return DeviceDeadlines(self.ack_deadline, self.download_deadline, self.apply_deadline, self.verify_deadline)


def dump_retries(retries: Retries | None) -> dict[str, Any] | None:
    """Return the normal form of `device.retries`; None: the spec has none."""
    if retries is None:
        return None
    backoff = f"{duration_text(retries.least)}..{duration_text(retries.most)}"
    return {"max": retries.max, "backoff": backoff, "on": [one.value for one in retries.on]}


def dump_start_within(pacing: Pacing) -> dict[str, Any]:
    """Return the normal form of `device.start_within`: left out where it depends on how many devices there are."""
    return {} if pacing.start_within is None else {"start_within": duration_text(pacing.start_within)}
