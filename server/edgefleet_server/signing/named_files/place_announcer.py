"""Announces in TUF where the server is: `fleet/places.json` of the role `targets`, its content also in `custom` (ADR 0125).

Only the keys of `targets` say where a device may go: where holders have them, this asks for their signatures.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlmodel import Session
from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.server_places import TARGET, Announcement, ServerPlace, parse_announcement
from edgefleet_server.db.database import Database
from edgefleet_server.signing import store
from edgefleet_server.signing.ceremony.service import CeremonyService
from edgefleet_server.signing.repository import TufRepository

_ROLE: Final = "targets"


class PlaceAnnouncer:
    """Reads and signs the announcement. Joins the caller's transaction."""

    def __init__(self, db: Database, repository: TufRepository, ceremony: CeremonyService, clock: Clock) -> None:
        """Wire the parts. Nothing is read."""
        self._db, self._repository, self._ceremony, self._clock = db, repository, ceremony, clock

    def announced(self) -> Announcement | None:
        """Return what is signed, None when nothing is. Reads one small file."""
        with self._db.read() as session:
            return self._announced(session)

    def announce(
        self, places: Sequence[ServerPlace], cas: Sequence[bytes], *, spread_s: int, renew_from_s: int = 0
    ) -> tuple[int, str]:
        """Announce places and CAs (PEM), the first place to be used. Return the number, and the request that waits for holders, "" = none.

        Raises RequestWaitingError, KeysMissingError, BadMessageError.
        """
        now = self._clock.now()
        with self._db.session() as session:
            store.take_turn(session)
            known = self._announced(session)
            number = max(known.number + 1 if known is not None else 1, int(now.timestamp()))
            plain = {
                "number": number,
                "places": [msgspec.to_builtins(one) for one in places],
                "cas": [pem.decode("ascii") for pem in cas],
                "renew_from_s": renew_from_s,
                "spread_s": spread_s,
            }
            parse_announcement(plain)  # what a device would refuse is not signed
            if _ROLE in self._repository.offline(session):
                is_here = known is not None and list(known.places) == list(places)
                what = "the CAs of the server" if is_here or len(cas) > 1 else f"{places[0].url} as the server's place"
                asked = self._ceremony.change_targets(f"announce {what}", lambda signed: _put(signed, plain))
                return number, asked.id
            targets = self._repository.load(session, _ROLE)
            _put(targets, plain)
            self._repository.publish(session, {_ROLE: targets}, now)
            return number, ""

    def waiting(self) -> str:
        """Return the request for signatures that waits, "" = none."""
        found = self._ceremony.waiting()
        return "" if found is None else found.id

    def _announced(self, session: Session) -> Announcement | None:
        found = store.latest(session, _ROLE)
        if found is None:
            return None
        target = json.loads(found[1])["signed"]["targets"].get(
            TARGET
        )  # our own file: python-tuf takes ten times as long
        return None if target is None else parse_announcement(target["custom"])


def _put(targets: Targets, plain: dict[str, Any]) -> None:
    data = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    digest = {"sha256": str(sha256_hex(data))}
    targets.targets[TARGET] = TargetFile(len(data), digest, TARGET, unrecognized_fields={"custom": plain})
