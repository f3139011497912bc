"""Counts bytes to and from devices by hour, model and groups: in memory, and once a minute in the database.

1. A count is added where the bytes pass, at the cost of one look into a dictionary. What devices belong to and of which model a bundle is
   are asked once a minute, for the devices and bundles of that minute.
2. A process that is killed loses the counts of its last minute. A database that is away is asked again a minute later.
3. Names of models come from devices: those of no published model count as OTHER, and in memory a device has MOST_NAMES at most, so that
   one cannot crowd out the others. Beyond MOST_SETS stored sets of groups, devices in a new set count as devices in none.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_server.costing import store
from edgefleet_server.costing.model import HOUR_S, Kind
from edgefleet_server.db.database import Database, DatabaseUnavailableError

EVERY_S: Final = 60.0
DAY_S: Final = 86_400
SCALES: Final = (HOUR_S, DAY_S)
OTHER: Final = "(other)"
MOST_PENDING: Final = 200_000
"""Counts in memory: of one minute in a fleet of 100,000 devices, or of an hour without a database in a smaller one."""
MOST_NAMES: Final = 200
"""Models and bundles that one device counts for in a minute: what it names beyond is of OTHER."""
MOST_NAME_CHARS: Final = 64
"""Of a bundle's digest; names of models are shorter."""
MOST_SETS: Final = 1_000
_log = logging.getLogger(__name__)
_Key = tuple[int, str, str, str]
"""Hour, device, kind, and the model or the digest of the bundle."""


class Bundles(Protocol):
    """What is needed of the registry."""

    def bundles_by_digest(self, digests: Sequence[str]) -> Mapping[Any, Any]:
        """Return bundles by digest, each with its `ref`."""
        ...

    def model_names(self) -> Collection[str]:
        """Return the names of all models."""
        ...


Memberships = Callable[[Sequence[str] | None], Mapping[str, tuple[str, str, tuple[str, ...]]]]
"""Devices -> profile, site and sorted groups of each."""


class TrafficLedger:
    """Counts and stores. `down`, `up` and `up_windows` are thread-safe and never block; `write_due` and `write` are for one thread."""

    def __init__(self, db: Database, clock: Clock, bundles: Bundles, memberships: Memberships) -> None:
        """Wire the parts. clock: of this process."""
        self._db = db
        self._clock = clock
        self._bundles = bundles
        self._memberships = memberships
        self._lock = threading.Lock()
        self._pending: dict[_Key, list[int]] = {}
        self._names: dict[str, int] = {}
        self._due_s = clock.monotonic_s() + EVERY_S
        self._hour_s = self._now_hour()
        self._look_s = clock.monotonic_s()

    def down(self, device: str, bundle: str, size: int) -> None:
        """Count a block of a bundle that was sent. bundle: its sha256."""
        self._add(device, Kind.BUNDLE, bundle, size, 1)

    def up(self, device: str, kind: Kind, model: str, size: int) -> None:
        """Count a message that came."""
        self._add(device, kind, model, size, 1)

    def up_windows(self, device: str, models: Sequence[str], size: int) -> None:
        """Count a message of telemetry. models: of its windows, each as often as it has windows; bytes are divided evenly."""
        if not models:
            self._add(device, Kind.TELEMETRY, "", size, 0)
            return
        each, rest = divmod(size, len(models))
        for at, model in enumerate(models):
            self._add(device, Kind.TELEMETRY, model, each + (at < rest), 1)

    def write_due(self) -> None:
        """Store what was counted, once a minute."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            self.write()

    def write(self) -> None:
        """Store what was counted. What cannot be stored now is kept for the next time, as far as there is room."""
        with self._lock:
            pending, self._pending, self._names = self._pending, {}, {}
        if not pending:
            return
        try:
            self._store(pending)
        except (SQLAlchemyError, DatabaseUnavailableError) as error:
            _log.warning("bytes not counted yet", extra={"counts": len(pending), "reason": type(error).__name__})
            with self._lock:
                for key, (size, n) in pending.items():
                    self._put(key, size, n)

    def _add(self, device: str, kind: Kind, name: str, size: int, n: int) -> None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            if now_s >= self._look_s:
                self._look_s, self._hour_s = now_s + 1.0, self._now_hour()
            key = (self._hour_s, device, kind.value, name if len(name) <= MOST_NAME_CHARS else OTHER)
            if key not in self._pending:
                self._names[device] = self._names.get(device, 0) + 1
                if self._names[device] > MOST_NAMES:
                    key = (self._hour_s, device, kind.value, OTHER)
            self._put(key, size, n)

    def _put(self, key: _Key, size: int, n: int) -> None:
        known = self._pending.get(key)
        if known is not None:
            known[0] += size
            known[1] += n
        elif len(self._pending) < MOST_PENDING:
            self._pending[key] = [size, n]

    def _now_hour(self) -> int:
        return int(self._clock.now().timestamp()) // HOUR_S * HOUR_S

    def _store(self, pending: Mapping[_Key, Sequence[int]]) -> None:
        devices = sorted({device for _, device, _, _ in pending})
        digests = sorted({name for _, _, kind, name in pending if kind == Kind.BUNDLE})
        groups = {device: names for device, (_, _, names) in self._memberships(devices).items()}
        model_of = {str(sha256): str(one.ref.model) for sha256, one in self._bundles.bundles_by_digest(digests).items()}
        known = {str(name) for name in self._bundles.model_names()}
        with self._db.session() as session:
            ids = self._set_ids(session, {groups.get(device, ()) for device in devices})
            counts: dict[store.TrafficKey, store.Counts] = {}
            for (hour, device, kind, name), (size, n) in pending.items():
                is_bundle = kind == Kind.BUNDLE
                model = model_of.get(name, OTHER) if is_bundle else name if name in known else OTHER
                bundle = name if is_bundle and model != OTHER else ""
                for scale in SCALES:
                    key = (scale, hour // scale * scale, model, kind, bundle, ids[groups.get(device, ())])
                    before = counts.get(key, (0, 0))
                    counts[key] = before[0] + size, before[1] + n
            store.add(session, counts)

    def _set_ids(self, session: Any, wanted: Collection[tuple[str, ...]]) -> Mapping[tuple[str, ...], int]:
        """Return the ids of sets of groups."""
        digests = {one: _digest(one) for one in {*wanted, ()}}
        ids = store.group_set_ids(session, digests.values())
        new = {digest: one for one, digest in digests.items() if digest not in ids}
        if new:
            room = max(0, MOST_SETS - store.count_group_sets(session))
            chosen = dict(sorted(new.items(), key=lambda one: (one[1] != (), one[1]))[: max(1, room)])
            if len(chosen) < len(new):
                _log.warning(
                    "too many combinations of groups: devices in new ones count as in none", extra={"new": len(new)}
                )
            store.add_group_sets(session, chosen)
            ids |= store.group_set_ids(session, chosen)
        return {one: ids.get(digest, ids.get(digests[()], 0)) for one, digest in digests.items()}


def oldest_kept(now: datetime, days: Mapping[int, int]) -> dict[int, int]:
    """Return before which moment steps go, by scale. days: how long each is kept."""
    return {scale: int(now.timestamp()) - kept * DAY_S for scale, kept in days.items()}


def _digest(groups: Sequence[str]) -> str:
    return hashlib.sha256(msgspec.json.encode(groups)).hexdigest()
