"""Rules about single devices. Pure."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from edgefleet_server.alerting.alert_rules.figure_text import duration_text, percent_text
from edgefleet_server.alerting.alert_rules.fleet_facts import DeviceFact, Facts, Finding, UpdateFact

HABIT_MARGIN: Final = 1.25
DISK_CLEARS_AT: Final = 1.25
"""A disk alert ends once there is a quarter more room than the threshold."""


def device_group(device: DeviceFact) -> str:
    """Return the group of alerts of a device: its site, else its hardware profile."""
    return f"site {device.site}" if device.site else f"profile {device.profile}"


def labels_of(device: DeviceFact) -> dict[str, str]:
    """Return what silences can match of a device."""
    found = {"device": device.id, "profile": device.profile}
    return found | {"site": device.site} if device.site else found


def of_device(
    device: DeviceFact, summary: str, value: float, limit: float, *evidence: str, near: bool = False
) -> Finding:
    """Return a finding about a device."""
    return Finding(
        subject=f"device:{device.id}",
        shown=device.shown,
        summary=summary,
        value=value,
        limit=limit,
        group=device_group(device),
        near=near,
        evidence=[one for one in evidence if one],
        devices=[device.id],
        labels=labels_of(device),
        link=f"/devices/{device.id}",
    )


def away_limit_s(device: DeviceFact, threshold_min: float) -> float:
    """Return for how long a device may be away: the threshold, or a quarter more than its own habit."""
    return max(60 * threshold_min, HABIT_MARGIN * (device.habit_s or 0.0))


def offline(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find devices that are away longer than they usually are. threshold: minutes that every device may be away."""
    for device in facts.devices:
        if device.away_s is None:
            continue
        limit_s = away_limit_s(device, threshold)
        if device.away_s < limit_s:
            continue
        habit = "no habit is known of it yet"
        if device.habit_s is not None:
            habit = f"19 of 20 of its absences ended within {duration_text(device.habit_s)}"
        away = duration_text(device.away_s)
        yield of_device(device, f"has been offline for {away}", device.away_s / 60, limit_s / 60, habit)


def certificate_ends(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find devices whose certificate ends within so many days: the agent should have renewed it long before."""
    for device in facts.devices:
        left = device.cert_not_after - facts.now
        if left >= timedelta(days=threshold):
            continue
        days = left / timedelta(days=1)
        end = f"{device.cert_not_after:%Y-%m-%d %H:%M} UTC"
        text = f"has a certificate that ends on {end}" if days > 0 else f"has a certificate that ended on {end}"
        why = "the agent renews it when two thirds of its life are over, so renewals have failed or the device was away"
        yield of_device(device, text, days, threshold, why)


def disk_full(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find devices with less free space than so many MiB."""
    for device in facts.devices:
        if device.free_mb is None or device.free_mb >= threshold * DISK_CLEARS_AT:
            continue
        text = f"has {device.free_mb} MiB of disk left"
        yield of_device(device, text, float(device.free_mb), threshold, near=device.free_mb >= threshold)


def suspect(facts: Facts, _threshold: float) -> Iterator[Finding]:
    """Find devices whose words are not trusted."""
    for device in facts.devices:
        if device.suspect_since is not None:
            yield of_device(device, "is suspect: its words are not trusted", 1, 0, device.suspect_reason)


def update_failed(facts: Facts, _threshold: float) -> Iterator[Finding]:
    """Find devices on which an update of a model failed or was rolled back."""
    known = {device.id: device for device in facts.devices}
    for one in facts.updates:
        device = known.get(one.device)
        if device is not None:
            yield _failed(device, one)


def _failed(device: DeviceFact, one: UpdateFact) -> Finding:
    what = "was rolled back" if one.state == "rolled_back" else "failed"
    why = ": ".join(text for text in (one.error_class.replace("_", " "), one.reason) if text)
    return Finding(
        subject=f"model:{one.model}@{device.id}",
        shown=f"{one.model} on {device.shown}",
        summary=f"update {what}",
        value=1,
        limit=0,
        group=f"model {one.model}",
        evidence=[why] if why else [],
        devices=[device.id],
        labels=labels_of(device) | {"model": one.model},
        link=f"/devices/{device.id}",
    )


def share_text(part: int, whole: int) -> str:
    """Return `3 of 40 (7.5 %)`."""
    return f"{part} of {whole} ({percent_text(part / whole)})"
