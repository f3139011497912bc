"""The hardware profiles that bundles can be built for: those that edgefleet ships and those that came with publications.

It knows nothing of models and releases; `service.py` is the only one that uses it.
"""

from collections.abc import Callable, Sequence

from sqlmodel import Session

import edgefleet_profiles
from edgefleet_profiles.profile import HardwareProfile, profile_from_dict, profile_to_dict
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ProfileName
from edgefleet_server.db.database import Database
from edgefleet_server.registry import store
from edgefleet_server.registry.errors import ProfileDiffersError, ProfileUnknownError
from edgefleet_server.registry.model import DEFAULT_PROFILES
from edgefleet_server.registry.tables import ProfileRow


class Profiles:
    """All known hardware profiles. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def all(self) -> list[HardwareProfile]:
        """Return all profiles by name."""
        shipped = [edgefleet_profiles.load(name) for name in edgefleet_profiles.names()]
        with self._db.read() as session:
            own = [profile_from_dict(row.facts, is_stored=True) for row in store.list_profiles(session)]
        return sorted([*shipped, *own], key=lambda profile: profile.name)

    def get(self, name: str) -> HardwareProfile:
        """Return a profile. Raises ProfileUnknownError."""
        found = self.find(name)
        if found is None:
            known = ", ".join(profile.name for profile in self.all())
            raise ProfileUnknownError(f"there is no hardware profile {name!r}", next_step=f"choose one of: {known}")
        return found

    def find(self, name: str) -> HardwareProfile | None:
        """Return a profile, or None when nobody knows it."""
        if name in edgefleet_profiles.names():
            return edgefleet_profiles.load(name)
        with self._db.read() as session:
            row = store.find_profile(session, name)
        return None if row is None else profile_from_dict(row.facts, is_stored=True)

    def add(self, session: Session, profile: HardwareProfile, by: str) -> None:
        """Keep a profile that came with a publication. Raises ProfileDiffersError when the name stands for another.

        Raises ProfileError for a list of operators that there is not: the name would stand for it for good.
        """
        edgefleet_profiles.operator_limits(profile)
        existing = self.find(profile.name)
        if existing is None:
            facts = profile_to_dict(profile)
            session.add(ProfileRow(name=profile.name, facts=facts, created_at=self._clock.now(), created_by=by))
            session.flush()
        elif existing != profile:
            raise ProfileDiffersError(
                f"a hardware profile {profile.name!r} exists with other facts",
                next_step="give your profile another name, or publish with --profile NAME to use the existing one",
            )

    def choose(
        self,
        wanted: Sequence[ProfileName] | None,
        custom: Sequence[HardwareProfile],
        fleet_profiles: Callable[[], Sequence[ProfileName]],
    ) -> tuple[list[HardwareProfile], str]:
        """Return the profiles of a publication and why these: the publisher's, else the fleet's, else the generic ones.

        Raises ProfileUnknownError.
        """
        if wanted or custom:
            names = dict.fromkeys([*(wanted or ()), *(profile.name for profile in custom)])
            return [self.get(name) for name in names], "chosen by the publisher"
        in_fleet = sorted(set(fleet_profiles()))
        known = [found for name in in_fleet if (found := self.find(name)) is not None]
        if known:
            return known, "every profile in the fleet"
        return (
            [self.get(name) for name in DEFAULT_PROFILES],
            "no device is enrolled yet, so the two generic profiles were taken",
        )
