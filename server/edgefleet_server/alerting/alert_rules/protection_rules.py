"""Rules about deployment protection rules: one that a person set aside, one that is to be removed. Pure."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from edgefleet_server.alerting.alert_rules.fleet_facts import Facts, Finding

LINK: Final = "/settings/protection"
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)


def break_glass(facts: Facts, _threshold: float) -> Iterator[Finding]:
    """Find protection rules that a person has set aside."""
    for rule in facts.protections:
        if not rule.broken:
            continue
        last = max(one.until for one in rule.broken)
        names = ", ".join(dict.fromkeys(one.by for one in rule.broken))
        yield Finding(
            subject=f"protection:{rule.name}", shown=f"protection rule {rule.name}",
            summary=f"{names} may deploy to its {rule.devices} devices without an approval until {last:%H:%M} UTC",
            value=(last - facts.now) / _MINUTE, limit=0, group="protection", labels={"rule": rule.name}, link=LINK,
            evidence=[f"{one.by}: {one.reason}" for one in rule.broken],
        )  # fmt: skip


def protection_ends(facts: Facts, _threshold: float) -> Iterator[Finding]:
    """Find protection rules that somebody asked to remove."""
    for rule in facts.protections:
        if rule.ends_at is None:
            continue
        yield Finding(
            subject=f"protection:{rule.name}", shown=f"protection rule {rule.name}",
            summary=f"{rule.ending_by} asked to remove it: it ends on {rule.ends_at:%Y-%m-%d %H:%M} UTC for {rule.devices} devices",
            value=(rule.ends_at - facts.now) / _HOUR, limit=0, group="protection", labels={"rule": rule.name}, link=LINK,
        )  # fmt: skip
