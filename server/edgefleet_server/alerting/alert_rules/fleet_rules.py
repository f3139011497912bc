"""Rules about many devices at once: a silent site, a large part of a group or of the fleet that is away. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from edgefleet_server.alerting.alert_rules.device_rules import away_limit_s, share_text
from edgefleet_server.alerting.alert_rules.figure_text import duration_text
from edgefleet_server.alerting.alert_rules.fleet_facts import DeviceFact, Facts, Finding, GroupFact

LEAST_SITE: Final = 2
LEAST_GROUP: Final = 5
"""Of fewer devices a share says nothing that the devices themselves do not say."""
CLEARS_AT: Final = 0.8
"""An alert about a share ends at four fifths of the threshold."""
NEARLY_ALL: Final = 80
"""From so many percent of the fleet on, sites and devices are no news: the network or the server is."""
NAMED: Final = 10
FLEET: Final = "fleet"


def site_silent(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find sites all of whose devices are away, for longer than each of them usually is. threshold: minutes.

    The site is silent since the last of its devices went. A shop that is switched off each night has that habit in every device.
    """
    sites: dict[str, list[DeviceFact]] = defaultdict(list)
    for device in facts.devices:
        if device.site:
            sites[device.site].append(device)
    for site, devices in sorted(sites.items()):
        every = len(devices) if facts.sites is None else facts.sites.get(site, 0)
        if every < LEAST_SITE or len(devices) < every or any(one.away_s is None for one in devices):
            continue
        silent_s = min(one.away_s or 0.0 for one in devices)
        limit_s = min(away_limit_s(one, threshold) for one in devices)
        if silent_s < limit_s:
            continue
        names = ", ".join(one.shown for one in devices[:NAMED])
        more = f" and {len(devices) - NAMED} more" if len(devices) > NAMED else ""
        yield Finding(
            subject=f"site:{site}",
            shown=f"site {site}",
            summary=f"all {len(devices)} devices have been offline for {duration_text(silent_s)}",
            value=silent_s / 60,
            limit=limit_s / 60,
            group=f"site {site}",
            evidence=[f"Devices: {names}{more}"],
            devices=[one.id for one in devices],
            labels={"site": site},
            link=f"/devices?selector=site%3D{site}",
        )


def offline_share(facts: Facts, threshold: float) -> Iterator[Finding]:
    """Find groups, and the fleet, of which more than so many percent are away."""
    away = [one.id for one in facts.devices if one.away_s is not None]
    live = len(facts.devices) if facts.live is None else facts.live
    for one in (GroupFact("", live, len(away)), *facts.groups):
        if one.devices < LEAST_GROUP:
            continue
        percent = 100 * one.away / one.devices
        if percent < threshold * CLEARS_AT:
            continue
        yield Finding(
            subject=f"group:{one.group}" if one.group else FLEET,
            shown=f"group {one.group}" if one.group else "the fleet",
            summary=f"{share_text(one.away, one.devices)} devices are offline",
            value=percent,
            limit=threshold,
            group=f"group {one.group}" if one.group else FLEET,
            near=percent < threshold,
            devices=away if not one.group and percent >= NEARLY_ALL else (),
            labels={"group": one.group} if one.group else {},
            link=f"/groups/{one.group}" if one.group else "/devices?selector=status%3Doffline",
        )
