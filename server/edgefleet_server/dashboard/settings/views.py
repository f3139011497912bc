"""What the settings pages show: this server, its checks, tokens. No secret: those are shown once, by the action that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.model import TokenView
from edgefleet_server.access.people.model import PersonView, ends_soon
from edgefleet_server.access.service import AccessService
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.observability.health import CheckResult, Health
from edgefleet_server.settings import ServerSettings

PAGE_ROWS: Final = 50
MAX_OWNERS: Final = 500
SOON: Final = "ends soon"

LIFETIMES: Final = (("in 1 day", 1), ("in 7 days", 7), ("in 30 days", 30), ("in 90 days", 90), ("in a year", 365))


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What this server process is. checks: readiness, as `/readyz` says it; jobs: conversions by state."""

    facts: Sequence[tuple[str, str]]
    checks: Sequence[CheckResult]
    jobs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TokenLine:
    """One token. state: valid, ends soon, expired or revoked; is_own: this browser is signed in by it."""

    token: TokenView
    state: str
    is_own: bool

    @property
    def is_in_force(self) -> bool:
        """Whether it works."""
        return self.state in ("valid", SOON)


@dataclass(frozen=True, slots=True)
class TokensPage:
    """A page of tokens. ends: those that a new one may have, moments, each with how long that is; owners: ids, each with its name."""

    lines: Sequence[TokenLine]
    total: int
    next_cursor: str | None
    ends: Sequence[tuple[str, str]]
    owners: Sequence[tuple[str, str]]


class SettingsPages:
    """Builds the pages. Thread-safe; calls block."""

    def __init__(
        self,
        settings: ServerSettings,
        db: Database,
        addresses: ServerAddresses,
        health: Health,
        conversion: ConversionService,
        access: AccessService,
        clock: Clock,
    ) -> None:
        """Wire the services."""
        self._settings = settings
        self._db = db
        self._addresses = addresses
        self._health = health
        self._conversion = conversion
        self._access = access
        self._clock = clock

    def server(self) -> ServerFacts:
        """Return what this server is. Runs the readiness checks."""
        settings = self._settings
        scheme = urlsplit(settings.blob_url).scheme if settings.blob_url else ""
        is_local = scheme in ("", "file")
        facts = [
            ("Version", version("edgefleet")),
            ("Tenant", settings.tenant),
            ("This process", f"{settings.instance}: {', '.join(settings.roles)}"),
            ("Database", "SQLite" if self._db.is_sqlite else "PostgreSQL"),
            ("Blobs", "a local folder" if is_local else f"an object store ({scheme})"),
            ("Broker", settings.broker if "@" not in settings.broker else "an external broker"),
            ("Address for devices", self._addresses.device_url),
            (
                "TLS for these pages",
                "by this server" if settings.api_tls_cert else "none" if not settings.behind_proxy else "by a proxy",
            ),
            ("Largest upload", f"{settings.max_blob_bytes // (1024 * 1024)} MiB"),
            ("Pickles", "allowed (in the sandbox)" if settings.allow_pickle else "refused"),
        ]
        return ServerFacts(facts, self._health.run(), self._conversion.counts())

    def tokens(self, own_id: str, after: str | None) -> TokensPage:
        """Return one page of tokens."""
        now = self._clock.now()
        found = self._access.tokens(PageRequest(PAGE_ROWS, after))
        lines = [TokenLine(one, _state(one, now), one.id == own_id) for one in found.items]
        ends = [(f"{now + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}", label) for label, days in LIFETIMES]
        people = self._access.people.people(PageRequest(MAX_OWNERS)).items
        owners = [(one.id, one.name) for one in people if one.disabled_at is None]
        return TokensPage(lines, found.total, found.next_cursor, ends, owners)

    def people(self, after: str | None) -> Page[PersonView]:
        """Return one page of people and services."""
        return self._access.people.people(PageRequest(PAGE_ROWS, after))


def _state(token: TokenView, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is not None and token.expires_at <= now:
        return "expired"
    return SOON if ends_soon(token.expires_at, now) else "valid"
