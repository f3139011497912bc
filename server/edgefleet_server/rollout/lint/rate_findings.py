"""What is wrong with a spec's pace, seen with the devices that there are. Pure. Codes are stable.

`service` puts it together with what `preview` finds of stages and strata.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from edgefleet_server.fleet.model import DeviceFacts
from edgefleet_server.rollout import admission
from edgefleet_server.rollout.admission import window_text
from edgefleet_server.rollout.lint.findings import Finding
from edgefleet_server.rollout.model import RampWindow
from edgefleet_server.rollout.spec import maintenance_windows
from edgefleet_server.rollout.spec.maintenance_windows import TZ_DEVICE
from edgefleet_server.rollout.spec.model import Rate, Spec
from edgefleet_server.rollout.spec.parts import duration_text
from edgefleet_terms.reserved_labels import SITE_LABEL, TZ_LABEL

NO_TIME_ZONE: Final = "no_time_zone"
NO_SITE: Final = "no_site"
SLOW_RATE: Final = "slow_rate"
RARE_WINDOW: Final = "rare_window"
LONG_SPREAD: Final = "long_spread"
SPREAD_HOLDS_PLACES: Final = "spread_holds_places"
SPREAD_BEYOND_WINDOW: Final = "spread_beyond_window"
_SHOWN: Final = 3
_ANY: Final = datetime(2026, 1, 1, tzinfo=UTC)


def pace_findings(spec: Spec, devices: Sequence[DeviceFacts], now: datetime) -> Iterator[Finding]:
    """Yield what the author of a spec should know of its pace. devices: those that its selector matches."""
    yield from _about_zones(spec, devices)
    yield from _about_sites(spec, devices)
    yield from _about_windows(spec, now)
    yield from _about_spread(spec)
    for index, stage in enumerate(spec.stages):
        if stage.rate is None:
            continue
        most = len(devices)
        takes = time_to_offer(stage.rate, most)
        if takes >= spec.on_inconclusive.after:
            message = (
                f"at its rate stage {stage.name} takes up to {_words(takes)} to offer the release to {most} devices, but after "
                f"{duration_text(spec.on_inconclusive.after)} without a verdict on_inconclusive says {spec.on_inconclusive.do}"
            )
            yield Finding("warning", SLOW_RATE, index, None, message, "raise rate.max or on_inconclusive.after")


def time_to_offer(rate: Rate, devices: int) -> timedelta:
    """Return how long a ramp takes for so many devices when nothing fails and nothing else holds it."""
    minutes, left, per_min = 0, devices, rate.start
    while left > per_min:
        left -= per_min
        minutes += 1
        after = admission.next_rate(rate, RampWindow(0, _ANY, per_min, offered=1))
        if after == per_min:
            break
        per_min = after
    return admission.MINUTE * (minutes + left / per_min)


def _about_zones(spec: Spec, devices: Sequence[DeviceFacts]) -> Iterator[Finding]:
    if not spec.windows or any(one.tz != TZ_DEVICE for one in spec.windows):
        return
    without = [one.id for one in devices if maintenance_windows.zone(one.labels.get(TZ_LABEL, "")) is None]
    if without:
        message = f"{len(without)} devices have no time zone in their label tz ({_some(without)}): no window of theirs ever opens"
        advice = f"`edgectl device label {without[0]} tz=Europe/Berlin`, or write tz: UTC in the window"
        yield Finding("error", NO_TIME_ZONE, None, None, message, advice)


def _about_sites(spec: Spec, devices: Sequence[DeviceFacts]) -> Iterator[Finding]:
    without = [one.id for one in devices if not one.labels.get(SITE_LABEL)]
    if spec.limits.per_site is not None and without:
        message = (
            f"{len(without)} devices have no label site ({_some(without)}): limits.per_site does not hold for them"
        )
        advice = f"`edgectl device label {without[0]} site=NAME`, or nothing, if they share no line"
        yield Finding("warning", NO_SITE, None, None, message, advice)


def _about_windows(spec: Spec, now: datetime) -> Iterator[Finding]:
    after = spec.on_inconclusive.after
    for window in spec.windows:
        place = maintenance_windows.zone("UTC" if window.tz == TZ_DEVICE else window.tz)
        assert place is not None, "the spec was parsed"
        first = maintenance_windows.next_start(window.cron, place, now)
        second = None if first is None else maintenance_windows.next_start(window.cron, place, first)
        if first is None or second is None:
            continue
        if second - first - window.duration >= after:
            message = (
                f"{_words(second - first - window.duration)} lie between two windows {window_text(window)}, but after "
                f"{duration_text(after)} without a verdict on_inconclusive says {spec.on_inconclusive.do}"
            )
            yield Finding("warning", RARE_WINDOW, None, None, message, "make on_inconclusive.after longer than that")


def _about_spread(spec: Spec) -> Iterator[Finding]:
    """Yield what does not go together with `device.start_within`. One that is as long as the deadline is no spec at all."""
    within = spec.device.start_within
    if not within:
        return
    left = spec.device.download - within
    if left < within:
        message = (
            f"the last devices to begin have {duration_text(left)} of download_deadline left: start_within takes "
            f"{duration_text(within)} of {duration_text(spec.device.download)}"
        )
        yield Finding(
            "warning", LONG_SPREAD, None, None, message, "raise device.download_deadline, or lower start_within"
        )
    if spec.limits.are_set:
        message = f"a device takes its place in the limits when it is offered the release, and waits up to {duration_text(within)} in it"
        yield Finding("warning", SPREAD_HOLDS_PLACES, None, None, message, "remove start_within: limits spread already")
    if any(window.duration <= within for window in spec.windows):
        message = (
            f"devices wait up to {duration_text(within)} after their offer, and then begin when their window has closed"
        )
        yield Finding(
            "warning", SPREAD_BEYOND_WINDOW, None, None, message, "lower start_within, or make the window longer"
        )


def _some(ids: Sequence[str]) -> str:
    more = ", …" if len(ids) > _SHOWN else ""
    return f"{', '.join(ids[:_SHOWN])}{more}"


def _words(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:.3g} h" if hours < 48 else f"{hours / 24:.3g} d"
