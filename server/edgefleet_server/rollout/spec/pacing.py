"""Reads the fields of a spec that say how fast and when, and writes them. Pure.

They are `rate`, `limits`, `windows`, `offline`, `device.retries` and `device.start_within`.

Source: docs/reference/rollout-spec.md.
"""

import re
from datetime import timedelta
from typing import Any, Final

from edgefleet_protocol.messages import TRANSIENT, ErrorClass
from edgefleet_server.rollout.spec.maintenance_windows import cron_flaw, zone
from edgefleet_server.rollout.spec.model import (
    DEFAULT_FACTOR,
    DEFAULT_MAX,
    TZ_DEVICE,
    CountAs,
    DeviceDeadlines,
    Limits,
    Offline,
    OnReturn,
    Pacing,
    Rate,
    Retries,
    Window,
)
from edgefleet_server.rollout.spec.reader import Place, duration_text

FIELDS: Final = ("limits", "windows", "offline")
MAX_PER_MIN: Final = 3000
"""The way back is at least ten times as fast; more than the engine writes in a tenth of its time could not keep that."""
MAX_FACTOR: Final = 10.0
MAX_DOWNLOADS: Final = 1_000_000
MAX_BITS: Final = 10**12
MIN_BITS: Final = 8000
MAX_WINDOWS: Final = 16
MAX_WINDOW: Final = timedelta(days=7)
MAX_RETRIES: Final = 20

_RATE: Final = re.compile(r"([0-9]{1,9})/min")
_BITS: Final = re.compile(r"([0-9]{1,9})([kMG]?)bps")
_SIZES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_SPAN: Final = re.compile(r"([0-9]{1,9}[smhd])\.\.([0-9]{1,9}[smhd])")


def read_pacing(spec: Place, device: DeviceDeadlines) -> Pacing:
    """Return what a spec says of its pace. Without `offline` a device is away after `ack_deadline`."""
    under_device = spec.get("device")
    return Pacing(
        limits=_limits(spec.get("limits")),
        windows=_windows(spec.get("windows")),
        retries=_retries(under_device.get("retries") if under_device is not None else None),
        offline=_offline(spec.get("offline"), device),
        start_within=_start_within(under_device, device),
    )


def dump_pacing(pacing: Pacing) -> dict[str, Any]:
    """Return the normal form of the fields of `FIELDS`; `retries` stands below `device` (`dump_retries`)."""
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
            "on_return": pacing.offline.on_return.value,
        },
    }


def dump_retries(retries: Retries | None) -> dict[str, Any] | None:
    """Return the normal form of `device.retries`; None: the spec has none."""
    if retries is None:
        return None
    backoff = f"{duration_text(retries.least)}..{duration_text(retries.most)}"
    return {"max": retries.max, "backoff": backoff, "on": [one.value for one in retries.on]}


def dump_start_within(pacing: Pacing) -> dict[str, Any]:
    """Return the normal form of `device.start_within`: left out where it depends on how many devices there are."""
    return {} if pacing.start_within is None else {"start_within": duration_text(pacing.start_within)}


def read_rate(place: Place | None) -> Rate | None:
    """Return the rate of a stage, None when it has none or it is wrong."""
    if place is None or place.value is None or not place.only(("start", "factor", "max")):
        return None
    found = place.need("start", "write for example 50/min")
    start = _per_min(found)
    factor = place.number("factor", 0, MAX_FACTOR)
    most = _per_min(place.get("max"))
    if factor is not None and factor < 1:
        place.at("factor").fail(f"expected at least 1, got {factor:g}: a rate does not fall by itself")
    if start is None:
        return None
    if most is not None and most < start:
        place.at("max").fail(f"{most}/min is less than start ({start}/min); write a max of at least {start}/min")
    return Rate(start, DEFAULT_FACTOR if factor is None else factor, max(start, DEFAULT_MAX) if most is None else most)


def dump_rate(rate: Rate | None) -> dict[str, Any] | None:
    """Return the normal form of a stage's rate; None: it has none."""
    if rate is None:
        return None
    return {"start": f"{rate.start}/min", "factor": rate.factor, "max": f"{rate.max}/min"}


def _per_min(place: Place | None) -> int | None:
    if place is None:
        return None
    found = _RATE.fullmatch(place.value) if isinstance(place.value, str) else None
    if found is None or not 1 <= int(found[1]) <= MAX_PER_MIN:
        place.fail(f"expected devices a minute from 1/min to {MAX_PER_MIN}/min, got {place.shown()}")
        return None
    return int(found[1])


def _limits(place: Place | None) -> Limits:
    if place is None or not place.only(("concurrent_downloads", "per_site", "bandwidth")):
        return Limits()
    return Limits(
        concurrent_downloads=_count(place, "concurrent_downloads"),
        per_site=_count(place, "per_site"),
        bandwidth_bps=_bits(place.get("bandwidth")),
    )


def _count(place: Place, key: str) -> int | None:
    written = place.get(key)
    return None if written is None or written.value is None else place.whole(key, 1, MAX_DOWNLOADS)


def _bits(place: Place | None) -> int | None:
    if place is None or place.value is None:
        return None
    found = _BITS.fullmatch(place.value) if isinstance(place.value, str) else None
    bits = int(found[1]) * _SIZES[found[2]] if found is not None else 0
    if not MIN_BITS <= bits <= MAX_BITS:
        place.fail(f"expected bits a second from 8kbps to 1000Gbps, for example 200Mbps, got {place.shown()}")
        return None
    return bits


def _bits_text(bits: int) -> str:
    for unit in ("G", "M", "k"):
        if bits % _SIZES[unit] == 0:
            return f"{bits // _SIZES[unit]}{unit}bps"
    return f"{bits}bps"


def _windows(place: Place | None) -> tuple[Window, ...]:
    if place is None or (items := place.items()) is None:
        return ()
    if len(items) > MAX_WINDOWS:
        place.fail(f"expected at most {MAX_WINDOWS} windows, got {len(items)}")
        return ()
    return tuple(window for item in items if (window := _window(item)) is not None)


def _window(place: Place) -> Window | None:
    if not place.only(("cron", "duration", "tz")):
        return None
    cron = place.need("cron", 'write for example "0 1 * * *": each night at one')
    lasts = place.need("duration", "write for example 4h")
    expression = cron.text() if cron is not None else None
    if cron is not None and expression is not None and (flaw := cron_flaw(expression)):
        cron.fail(f"{cron.shown()} is no cron expression: {flaw}")
        expression = None
    duration = place.duration("duration", timedelta(), positive=True)
    if lasts is not None and duration > MAX_WINDOW:
        lasts.fail(f"expected at most {duration_text(MAX_WINDOW)}, got {lasts.shown()}")
    zone_place = place.get("tz")
    tz = (zone_place.text() or "") if zone_place is not None else TZ_DEVICE
    if zone_place is not None and isinstance(zone_place.value, str) and tz != TZ_DEVICE and zone(tz) is None:
        zone_place.fail(f"expected device, UTC or a time zone such as Europe/Berlin, got {zone_place.shown()}")
    if expression is None or not duration:
        return None
    return Window(" ".join(expression.split()), duration, tz)


def _start_within(place: Place | None, device: DeviceDeadlines) -> timedelta | None:
    written = place.get("start_within") if place is not None else None
    if place is None or written is None or written.value is None:
        return None
    span = place.duration("start_within", timedelta())
    if span >= device.download:
        written.fail(
            f"the wait is part of download_deadline ({duration_text(device.download)}), so it must be shorter than that; "
            "write a shorter one, or a longer download_deadline"
        )
        return None
    return span


def _retries(place: Place | None) -> Retries | None:
    if place is None or place.value is None:
        return None
    if isinstance(place.value, dict):  # YAML 1.1 reads the key `on` as true, and JSON writes that as "true"
        words = {"on" if key is True or key == "true" else key: value for key, value in place.value.items()}
        place = Place(place.path, words, place.errors)
    if not place.only(("max", "backoff", "on")):
        return None
    usual = Retries()
    most = place.whole("max", 0, MAX_RETRIES)
    least_wait, most_wait = _backoff(place.get("backoff"), usual)
    written = place.get("on")
    return Retries(
        max=usual.max if most is None else most,
        least=least_wait,
        most=most_wait,
        on=_classes(written) if written is not None else usual.on,
    )


def _backoff(place: Place | None, usual: Retries) -> tuple[timedelta, timedelta]:
    if place is None:
        return usual.least, usual.most
    found = _SPAN.fullmatch(place.value) if isinstance(place.value, str) else None
    if found is None:
        place.fail(f"expected the first and the longest wait, for example 2m..1h, got {place.shown()}")
        return usual.least, usual.most
    ends = Place(place.path, {"first": found[1], "last": found[2]}, place.errors)
    least = ends.duration("first", usual.least, positive=True)
    most = ends.duration("last", usual.most, positive=True)
    if most < least:
        place.fail(f"the longest wait is shorter than the first one; write {found[2]}..{found[1]}")
    return least, most


def _classes(place: Place) -> tuple[ErrorClass, ...]:
    items = place.items()
    if items is None:
        return ()
    allowed = sorted(one.value for one in TRANSIENT)
    for item in items:
        if item.value not in allowed:
            is_permanent = isinstance(item.value, str) and item.value in [one.value for one in ErrorClass]
            why = "is never tried again: it lies in the bundle" if is_permanent else "is no such class"
            item.fail(f"{item.shown()} {why}; expected some of {', '.join(allowed)}")
    known = [ErrorClass(item.value) for item in items if item.value in allowed]
    return tuple(dict.fromkeys(known))


def _offline(place: Place | None, device: DeviceDeadlines) -> Offline:
    usual = Offline(after=device.ack)
    if place is None or not place.only(("after", "count", "on_return")):
        return usual
    return Offline(
        after=place.duration("after", usual.after, positive=True),
        count=place.choice("count", CountAs, usual.count),
        on_return=place.choice("on_return", OnReturn, usual.on_return),
    )
