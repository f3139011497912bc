"""The public keys of issuers, fetched when they are needed and kept for a while. Thread-safe; calls block.

- Only issuers that an admin named are asked, through `outbound` and its rules about addresses. No redirect is followed.
- Keys are read again after an hour. While an issuer does not answer they hold for six hours, then no token of it is taken.
- A key that is not known makes them be read again, once a minute at most, whatever tokens come. After a failure nobody asks for 10 s.
- One thread at a time asks an issuer. Those that have a usable key do not wait for it, and of the others MAX_WAITING at most: a slow
  issuer must not hold all threads of the server.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.errors import BadIdTokenError, IssuerUnavailableError
from edgefleet_server.access.openid.issuer_documents import (
    CONFIGURATION,
    Configuration,
    IssuerKey,
    read_configuration,
    read_keys,
)
from edgefleet_server.outbound.http_post import Fetched

FRESH_S: Final = 3600.0
USABLE_S: Final = 6 * 3600.0
AGAIN_S: Final = 60.0
AFTER_FAILURE_S: Final = 10.0
TIMEOUT_S: Final = 5.0
MAX_DOCUMENT: Final = 128 * 1024
MAX_WAITING: Final = 4
_OK: Final = 200

Fetch = Callable[[str, float, int], Fetched]
"""(URL, seconds for all of it, bytes of its body) -> answer. Raises EdgefleetError."""


@dataclass(slots=True)
class _Known:
    """What is known of one issuer. Times are monotonic seconds."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    configuration: Configuration | None = None
    keys: dict[str, IssuerKey] = field(default_factory=dict)
    read_s: float = float("-inf")
    failed_s: float = float("-inf")
    failure: IssuerUnavailableError | None = None
    waiting: int = 0


class IssuerKeys:
    """Keys and configurations of issuers."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        """Wire the parts. Asks nobody yet."""
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def key(self, issuer: str, kid: str) -> IssuerKey:
        """Return a key of an issuer. Raises BadIdTokenError where it has no such key, IssuerUnavailableError."""
        known = self._of(issuer)
        found, age_s = known.keys.get(kid), self._clock.monotonic_s() - known.read_s
        if found is not None and (age_s < FRESH_S or (age_s < USABLE_S and known.lock.locked())):
            return found
        with self._turn(known, issuer):
            self._be_fresh(known, issuer)
            if kid not in known.keys and self._clock.monotonic_s() - known.read_s >= AGAIN_S:
                self._read(known, issuer)
            found = known.keys.get(kid)
        if found is None:
            raise BadIdTokenError(
                f"the ID token is refused: {issuer} has no key {kid[:80]!r}",
                next_step="try again in a minute; if it stays so, the token is not of this issuer",
            )
        return found

    def configuration(self, issuer: str) -> Configuration:
        """Return what an issuer says of itself. Raises IssuerUnavailableError."""
        known = self._of(issuer)
        with self._turn(known, issuer):
            self._be_fresh(known, issuer)
            assert known.configuration is not None
            return known.configuration

    def forget_others(self, issuers: frozenset[str]) -> None:
        """Forget all issuers but these, so that what is known is bounded by what admins named."""
        with self._lock:
            for gone in self._known.keys() - issuers:
                del self._known[gone]

    def _of(self, issuer: str) -> _Known:
        with self._lock:
            return self._known.setdefault(issuer, _Known())

    @contextmanager
    def _turn(self, known: _Known, issuer: str) -> Iterator[None]:
        """Wait until no other thread asks an issuer. Raises IssuerUnavailableError where too many wait already."""
        with self._lock:
            if known.waiting > MAX_WAITING:
                raise IssuerUnavailableError(
                    f"the issuer {issuer} is being asked for its keys, and is slow", next_step="try again in a minute"
                )
            known.waiting += 1
        try:
            with known.lock:
                yield
        finally:
            with self._lock:
                known.waiting -= 1

    def _be_fresh(self, known: _Known, issuer: str) -> None:
        age_s = self._clock.monotonic_s() - known.read_s
        if age_s < FRESH_S:
            return
        try:
            self._read(known, issuer)
        except IssuerUnavailableError:
            if age_s >= USABLE_S:
                raise

    def _read(self, known: _Known, issuer: str) -> None:
        now_s = self._clock.monotonic_s()
        if known.failure is not None and now_s - known.failed_s < AFTER_FAILURE_S:
            raise IssuerUnavailableError(str(known.failure), next_step=known.failure.next_step)
        try:
            configuration = read_configuration(issuer, self._body(issuer, issuer.rstrip("/") + CONFIGURATION))
            keys = read_keys(issuer, self._body(issuer, configuration.jwks_uri))
        except IssuerUnavailableError as error:
            known.failed_s, known.failure = self._clock.monotonic_s(), error
            raise
        known.configuration, known.keys, known.read_s, known.failure = configuration, keys, now_s, None

    def _body(self, issuer: str, url: str) -> bytes:
        try:
            answer = self._fetch(url, TIMEOUT_S, MAX_DOCUMENT)
        except EdgefleetError as error:
            raise IssuerUnavailableError(
                f"the issuer {issuer} cannot be asked for its keys: {error}", next_step=error.next_step
            ) from error
        if answer.status != _OK:
            raise IssuerUnavailableError(
                f"the issuer {issuer} cannot be asked for its keys: {url} answered {answer.status}",
                next_step="correct the issuer's address; it must answer by itself, without a redirect",
            )
        return answer.body
