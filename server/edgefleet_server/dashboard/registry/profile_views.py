"""What the pages of hardware profiles show: facts with their evidence, devices, and what predictions rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import edgefleet_profiles
from edgefleet_profiles.evidence_gaps import evidence_for
from edgefleet_profiles.pages import facts
from edgefleet_profiles.profile import Evidence, HardwareProfile
from edgefleet_protocol.ids import parse_profile_name
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.registry.model import BundleView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.model import CostState

SHOWN_BUNDLES: Final = 10


@dataclass(frozen=True, slots=True)
class ProfileLine:
    """One row of the list. cost: None where no device has the profile, so that nothing could be learnt."""

    profile: HardwareProfile
    is_shipped: bool
    devices: int
    cost: CostState | None


@dataclass(frozen=True, slots=True)
class Fact:
    """One key of a profile. kind: measured, vendor or guess, "" for a choice of its author; source: what stands behind it."""

    key: str
    value: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class ProfilePage:
    """One profile. proved: the runtimes that each bundle is run in."""

    profile: HardwareProfile
    proved: str
    devices: int
    cost: CostState
    facts: Sequence[Fact]
    bundles: Sequence[BundleView]


def profile_lines(registry: RegistryService, costs: CostService, devices: FleetReader) -> list[ProfileLine]:
    """Return all profiles, those that devices have first, each group by name."""
    counts = devices.summary().profiles
    lines = [
        ProfileLine(
            profile=one,
            is_shipped=one.name in edgefleet_profiles.names(),
            devices=counts.get(one.name, 0),
            cost=costs.state(one) if counts.get(one.name) else None,
        )
        for one in registry.profiles()
    ]
    return sorted(lines, key=lambda line: (-line.devices, line.profile.name))


def profile_page(registry: RegistryService, costs: CostService, devices: FleetReader, name: str) -> ProfilePage:
    """Return one profile. Raises ProfileUnknownError, BadIdError."""
    profile = registry.profile(parse_profile_name(name))
    return ProfilePage(
        profile=profile,
        proved=" and ".join(f"{one.name} {one.version}" for one in (profile.runtime, *profile.also_verified_on)),
        devices=devices.summary().profiles.get(profile.name, 0),
        cost=costs.state(profile),
        facts=[_fact(profile, key, value) for key, value in facts(profile)],
        bundles=registry.newest_bundles(profile.name, SHOWN_BUNDLES),
    )


def _fact(profile: HardwareProfile, key: str, value: Any) -> Fact:
    evidence = evidence_for(profile, key) or evidence_for(profile, key.partition(".")[0])
    return Fact(
        key, _value(value), "" if evidence is None else evidence.kind, "" if evidence is None else _source(evidence)
    )


def _source(evidence: Evidence) -> str:
    where = {"measured": f"on {evidence.measured_on}, {evidence.date}", "vendor": evidence.document, "guess": ""}
    parts = [where[evidence.kind], evidence.note]
    return "; ".join(part for part in parts if part)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{one['name']} {one['version']}" if isinstance(one, Mapping) else str(one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)
