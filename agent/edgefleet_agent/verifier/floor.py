"""The floor: the newest of everything this device has ever accepted, so that nothing older is accepted again.

ngclient's cache is not enough: it is renamed without fsync, and with a torn one old metadata was accepted
(docs/explanation/on-the-device.md).
1. Two copies with CRC, `floor.a` then `floor.b`, each written durably; the higher `serial` that is whole counts.
2. Versions never go down, except for roles whose keys the root has changed (recovery from fast-forward, TUF specification 5.3.11).
3. Trusted time = max(system clock, persisted, build). Only a clock at most one year ahead of it is persisted.
4. Both copies lost, torn or missing: the floor starts again at the last accepted document (`desired.ok`), and the loss is reported
   as `trust.floor_lost`. What it shut out is in that document's record too, so a lost floor brings no withdrawn release back.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.errors import StateFileError
from edgefleet_agent.install.records import DesiredOk
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.verifier.errors import FloorError
from edgefleet_protocol.messages import Seen

BUILD_TIME = datetime(2026, 11, 1, tzinfo=UTC)
MAX_LEAP = timedelta(days=366)
COPIES = ("floor.a", "floor.b")


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What was accepted. versions: by TUF role. keys: key ids of the top roles, joined.

    sec: least security version per model. withdrawn: versions that were withdrawn, per model.
    """

    v: int = 1
    serial: int = 0
    versions: dict[str, int] = {}
    keys: dict[str, str] = {}
    gen: int = 0
    hold_seq: int = 0
    sec: dict[str, int] = {}
    trusted_s: int = 0
    withdrawn: dict[str, list[str]] = {}


class FloorFile:
    """The two copies in one state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lost = False
        self.floor = self._load()

    def save(self, floor: Floor) -> None:
        """Write both copies, one after the other. Blocks on the disk. Raises OSError."""
        floor = msgspec.structs.replace(floor, serial=self.floor.serial + 1)
        for name in COPIES:
            write_record(self._folder / name, floor)
        self.floor = floor

    def _load(self) -> Floor:
        found: list[Floor] = []
        torn = 0
        for name in COPIES:
            try:
                record = read_record(Floor, self._folder / name)
            except StateFileError:
                torn += 1
                continue
            if record is not None:
                found.append(record)
        if found:
            return max(found, key=lambda floor: floor.serial)
        accepted = self._last_accepted()
        self.lost = torn > 0 or accepted is not None
        if accepted is None:
            return Floor()
        sec = {model: rules.sec_floor for model, rules in accepted.shut_out.items()}
        withdrawn = {model: rules.versions for model, rules in accepted.shut_out.items()}
        return Floor(gen=accepted.gen, sec=sec, withdrawn=withdrawn)

    def _last_accepted(self) -> DesiredOk | None:
        """Return the last accepted document, None when there is none that can be read."""
        try:
            return read_record(DesiredOk, StatePaths(self._folder).desired_ok)
        except StateFileError:
            return None


def trusted_now(floor: Floor, system: datetime) -> datetime:
    """Return the time to judge expiry by: never earlier than what was persisted or than this build."""
    return max(system, BUILD_TIME, datetime.fromtimestamp(floor.trusted_s, UTC))


def is_leap(floor: Floor, system: datetime) -> bool:
    """Say whether the clock is so far ahead that it is used but not remembered."""
    return system > max(BUILD_TIME, datetime.fromtimestamp(floor.trusted_s, UTC)) + MAX_LEAP


def with_time(floor: Floor, system: datetime) -> Floor:
    """Return the floor with the trusted time moved on, unless the clock has leapt."""
    if is_leap(floor, system):
        return floor
    return msgspec.structs.replace(floor, trusted_s=int(trusted_now(floor, system).timestamp()))


def highest(floor: Floor) -> int:
    """Return the highest version of any role but root, 0 before the first."""
    return max((version for role, version in floor.versions.items() if role != "root"), default=0)


def with_versions(floor: Floor, versions: Mapping[str, int], keys: Mapping[str, str]) -> Floor:
    """Return the floor raised to `versions`. Raises FloorError when one of them is below it.

    keys: key ids of the top-level roles by the newest root; a role with other keys than before starts again.
    """
    rotated = {role for role, ids in keys.items() if floor.keys.get(role, ids) != ids}
    # snapshot and timestamp vouch for all versions: with new keys for them everything may start again, but root
    reset_all = bool(rotated & {"snapshot", "timestamp"})
    raised = dict(floor.versions)
    for role, version in versions.items():
        least = floor.versions.get(role, 0)
        if version < least and (role == "root" or not (reset_all or role in rotated)):
            seen = None if role == "root" else Seen(version=highest(floor))  # root is not the server's to sign
            raise FloorError(f"{role} has version {version}; this device has already seen version {least}", seen)
        raised[role] = version
    return msgspec.structs.replace(floor, versions=raised, keys={**floor.keys, **keys})
