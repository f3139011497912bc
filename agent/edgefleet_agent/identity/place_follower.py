"""Follows the server to places that it announces, by the rules of `places`. The verifier writes what is announced."""

import logging
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import read_record, write_file, write_record
from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.errors import IdentityBusyError, StateFileError
from edgefleet_agent.identity.places import Following
from edgefleet_agent.identity.store import CA_FILE, RECORD_FILE, Identity, renewal_due_s
from edgefleet_agent.identity.takeover import NEXT_FOLDER, identity_lock
from edgefleet_protocol.server_places import Announcement, ServerPlace

PLACES_FILE = "places.msgpack"
PROVE_S = 120.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """How to connect. cas: PEM, "" = the folder's; number: as of a `Choice`."""

    identity: Identity
    folder: Path
    cas: str = ""
    number: int = 0


def load_announced(folder: Path) -> Announcement | None:
    """Return what was announced, None for nothing, or what cannot be read. Raises OSError."""
    try:
        return read_record(Announcement, folder / PLACES_FILE)
    except StateFileError as error:
        log.warning("announced places unreadable", extra={"reason": str(error)})
        return None


def note_announced(folder: Path, found: Announcement | None) -> None:
    """Write what is announced, if it is newer. Raises OSError."""
    known = load_announced(folder)
    if found is not None and found.number > (known.number if known is not None else 0):
        write_record(folder / PLACES_FILE, found)


def place_of(identity: Identity) -> ServerPlace:
    """Return the place that an identity uses."""
    return ServerPlace(
        identity.url, identity.broker_host, identity.broker_port, "5" if identity.mqtt == "5" else "3.1.1"
    )


def at_place(identity: Identity, place: ServerPlace, number: int) -> Identity:
    """Return an identity that uses another place."""
    address = {"url": place.url, "broker_host": place.host, "broker_port": place.port, "mqtt": place.mqtt}
    return msgspec.structs.replace(identity, **address, place=number)


def adopt(folder: Path, announced: Announcement) -> None:
    """Use the first announced place and the announced CAs. The caller holds the lock. Raises OSError.

    The CAs first: those of a move hold the old one. The renewed identity first: it would bring the old address back.
    """
    for one in (folder / NEXT_FOLDER, folder):
        identity = read_record(Identity, one / RECORD_FILE)
        if identity is not None:
            write_file(one / CA_FILE, "".join(announced.cas).encode(), mode=0o644)
            write_record(one / RECORD_FILE, at_place(identity, announced.places[0], announced.number))


def due_s(identity: Identity, announced: Announcement | None) -> int:
    """Return when to renew, unix seconds: at two thirds of the life, or when that is announced."""
    due = renewal_due_s(identity)
    if announced is not None and identity.cert_from_s < announced.renew_from_s:
        own = zlib.crc32(identity.device.encode()) % (announced.spread_s + 1)
        due = min(due, announced.renew_from_s + own)
    return due


class PlaceFollower:
    """The places of one device while agentd runs."""

    def __init__(self, loop: Loop, folder: Path, adopted: int, reconnect: Callable[[str], None]) -> None:
        """Read what is announced. adopted: number in the identity."""
        self._loop, self._folder, self._reconnect = loop, folder, reconnect
        self._now = Following(None, adopted).hear(load_announced(folder))
        self._timer: Timer | None = None
        self.came: set[str] = set()
        """Kinds of the documents that came on this connection."""

    @property
    def announced(self) -> Announcement | None:
        """What is announced."""
        return self._now.announced

    def facts(self) -> dict[str, list[int]]:
        """Return the number of the newest announcement, and of the one in use, 0 while another place serves."""
        now = self._now
        return {"place": [now.told, 0 if now.is_resting else now.adopted]} if now.told else {}

    def ways(self, identities: list[tuple[Identity, Path]]) -> list[Way]:
        """Return what to connect to, in this order. Safe from any thread."""
        current = place_of(identities[-1][0])
        return [
            Way(
                identity if one.place == current else at_place(identity, one.place, identity.place),
                folder,
                one.cas,
                one.number,
            )
            for one in self._now.choices(current)
            for identity, folder in identities
        ]

    def connected(self, number: int) -> None:
        """The broker took us on a way with this number."""
        self.came.clear()
        self._take(self._now.connected(number))
        if self._now.on_trial:
            self._after(PROVE_S, self._end_trial)

    def read_again(self) -> None:
        """Take what another process may have written."""
        self._now = self._now.hear(load_announced(self._folder))

    def lost(self) -> None:
        """The connection ended."""
        self._take(self._now.lost())

    def proved(self, kind: str) -> bool:
        """Return whether a place was adopted, or a newer announcement is known."""
        changed = kind in self.came and self._now.on_trial and self._adopt()
        heard = self._now.hear(load_announced(self._folder))
        if heard is not self._now and heard.announced is not None:
            self._now = heard
            self._after(secrets.randbelow(heard.announced.spread_s + 1), self._try_again)
            return True
        return changed

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _adopt(self) -> bool:
        announced = self._now.announced
        if announced is None:
            return False
        try:
            with identity_lock(self._folder):
                adopt(self._folder, announced)
        except (IdentityBusyError, StateFileError, OSError) as error:
            log.warning("announced place not adopted", extra={"reason": str(error)})
            return False
        self.close()
        self._now = self._now.proved()
        log.info("announced place adopted", extra={"number": announced.number, "url": announced.places[0].url})
        return True

    def _end_trial(self) -> None:
        if self._now.on_trial:
            self.lost()
            self._reconnect("no document came on an announced place")

    def _try_again(self) -> None:
        self._now = self._now.rested()
        if self._now.told:
            self._reconnect("the server moves")

    def _take(self, now: Following) -> None:
        failed, self._now = now.failures > self._now.failures, now
        if failed:  # not at each connection, which would put it off for ever
            self._after(now.rest_s, self._try_again)

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.close()
        self._timer = self._loop.call_later(delay_s, call)
