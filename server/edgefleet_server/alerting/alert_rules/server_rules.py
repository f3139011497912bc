"""Rules about the server itself: what it signed, its disk, its audit trail, and the tokens that it takes. Pure."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from edgefleet_server.alerting.alert_rules.figure_text import percent_text
from edgefleet_server.alerting.alert_rules.fleet_facts import Facts, Finding

LATE: Final = timedelta(days=1)
"""What the server signs again by itself is late after so long."""
IN_USE: Final = timedelta(days=30)
"""A token that nobody used for so long is missed by nobody."""
AFTERWARDS: Final = timedelta(days=7)
"""For how long a token that ended while it was in use is spoken of."""
CLEARS_AT: Final = 1.25
GIB: Final = 1024**3
SERVER: Final = "server"
OF_MODEL: Final = "TUF role m."
"""Beginning of what is shown of the role of a model; those that the server signs again by itself are late at most."""


def signing_key_ends(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find signed metadata and certificates of the server that end within so many days, or that are late to be signed again."""
    for one in facts.keys:
        days = (one.expires - facts.now) / timedelta(days=1)
        is_late = one.resign_at is not None and facts.now - one.resign_at > LATE
        if not is_late and (one.resign_at is not None or days >= threshold):
            continue
        end = f"{one.expires:%Y-%m-%d %H:%M} UTC"
        text = f"ends on {end}" if days > 0 else f"ended on {end}"
        why = "a person has to sign it again"
        if one.name.startswith(OF_MODEL):
            model = one.name.removeprefix(OF_MODEL)
            why = f"the team of {model} has to sign it again: `edgectl key team {model} --renew --sign FILE`"
        if one.resign_at is not None:
            why = f"the server should have signed it again on {one.resign_at:%Y-%m-%d %H:%M} UTC"
        yield Finding(
            subject=f"key:{one.name}", shown=one.name, summary=text, value=days, limit=threshold, group=SERVER, evidence=[why],
            labels={"key": one.name}, link="/bundles",
        )  # fmt: skip


def device_ca_ends(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find that no CA of the devices lasts longer than so many days. While it is rotated, the newer one counts."""
    last = max(facts.ca_ends, default=None)
    if last is None or (days := (last - facts.now) / timedelta(days=1)) >= threshold:
        return
    yield Finding(
        subject="device-ca", shown="the device CA", summary=f"{'ends' if days > 0 else 'ended'} on {last:%Y-%m-%d %H:%M} UTC",
        value=days, limit=threshold, group=SERVER, link="/settings/device-ca",
        evidence=["with it end the certificates of all devices and of this server, so no device connects any more"],
    )  # fmt: skip


def server_disk_full(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find disks of the server of which less than so many percent are free."""
    for one in facts.disks:
        percent = 100 * one.free_bytes / max(one.total_bytes, 1)
        if percent >= threshold * CLEARS_AT:
            continue
        text = f"{percent_text(percent / 100)} is free: {one.free_bytes / GIB:.1f} of {one.total_bytes / GIB:.1f} GiB"
        yield Finding(
            subject=f"disk:{one.name}", shown=f"the server's disk of {one.name}", summary=text, value=percent, limit=threshold,
            group=SERVER, near=percent >= threshold, labels={"disk": one.name}, link="/settings",
        )  # fmt: skip


def audit_trail_broken(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find that the server's own reading of its audit trail met an entry that does not follow the one before it."""
    trail = facts.trail
    if trail is None or not trail.broken_n:
        return
    last = (
        "it has not been read to its end yet"
        if trail.whole_at is None
        else f"it was whole on {trail.whole_at:%Y-%m-%d %H:%M} UTC"
    )
    yield Finding(
        subject="audit", shown="the audit trail", summary=f"entry {trail.broken_n} was changed, removed or added later",
        value=trail.broken_n, limit=threshold, group=SERVER, evidence=[last], link="/audit",
    )  # fmt: skip


def token_ends(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find tokens in use that end within so many days, or that ended within AFTERWARDS. One that was made for less than twice that
    time is short on purpose.
    """
    ahead = timedelta(days=threshold)
    for one in facts.tokens:
        left = one.expires_at - facts.now
        if not -AFTERWARDS < left < ahead or one.expires_at - one.created_at < 2 * ahead:
            continue
        if one.used_at is None or min(facts.now, one.expires_at) - one.used_at > IN_USE:
            continue
        end = f"{one.expires_at:%Y-%m-%d %H:%M} UTC"
        yield Finding(
            subject=f"token:{one.id}", shown=f"token {one.name} of {one.owner}",
            summary=f"ends on {end}" if left > timedelta(0) else f"ended on {end}", value=left / timedelta(days=1),
            limit=threshold, group=SERVER, evidence=[f"last used on {one.used_at:%Y-%m-%d %H:%M} UTC"],
            labels={"token": one.id}, link="/settings/tokens",
        )  # fmt: skip
