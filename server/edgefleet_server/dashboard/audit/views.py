"""What the audit page shows and exports: who changed what, filtered by actor, operation, object and time."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.model import AuditEntry, AuditFilter
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.keyset import Page, PageRequest

PAGE_ROWS: Final = 50
EXPORT_ROWS: Final = 500
"""Read at once; an export is as long as what it chooses."""
COLUMNS: Final = ("id", "at", "actor", "action", "object", "status", "request_id", "n", "hash")
_DEVICE: Final = re.compile(r"/api/v1/devices/([a-z0-9-]+)")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class BadTimeError(EdgefleetError):
    """A time in a filter is not valid."""

    code = "page.bad_time"


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """A filter as it was typed."""

    actor: str = ""
    action: str = ""
    object: str = ""
    since: str = ""
    until: str = ""

    @property
    def is_empty(self) -> bool:
        """Say whether it chooses everything."""
        return not any((self.actor, self.action, self.object, self.since, self.until))

    def filter(self) -> AuditFilter:
        """Return what it chooses. Raises BadTimeError."""
        return AuditFilter(
            self.actor.strip(),
            self.action.strip(),
            self.object.strip(),
            moment_in(self.since),
            moment_in(self.until),
        )

    def query(self) -> dict[str, str]:
        """Return it as fields of an address, those that are filled in."""
        fields = {
            "actor": self.actor, "action": self.action, "object": self.object, "since": self.since, "until": self.until,
        }  # fmt: skip
        return {name: text for name, text in fields.items() if text}

    def api_query(self) -> dict[str, str]:
        """Return it as parameters of `GET /audit`, times with their zone. Raises BadTimeError."""
        chosen = self.filter()
        times = {"since": chosen.since, "until": chosen.until}
        return self.query() | {name: f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in times.items() if at is not None}


def device_in(address: str) -> str:
    """Return the device that an object of the audit trail belongs to, "" for another object."""
    found = _DEVICE.match(address)
    return found[1] if found else ""


def moment_in(text: str) -> datetime | None:
    """Return a typed time, in UTC where it names no zone; None for nothing. Raises BadTimeError."""
    if not text.strip():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadTimeError(
            f"{text[:40]!r} is not a valid time", next_step="write it like 2026-11-25 or 2026-11-25T14:30 (UTC)"
        ) from error


def audit_page(access: AccessService, query: AuditQuery, after: str | None) -> Page[AuditEntry]:
    """Return one page, newest first. Raises BadTimeError, BadCursorError."""
    return access.audit(PageRequest(PAGE_ROWS, after), query.filter())


def exported(access: AccessService, what: AuditFilter, form: str) -> Iterator[str]:
    """Yield the chosen rows, newest first, as CSV with a head, or as one JSON object a line; read in pieces."""
    if form == "csv":
        yield _csv_line(dict(zip(COLUMNS, COLUMNS, strict=True)))
    after: str | None = None
    while True:
        page = access.audit(PageRequest(EXPORT_ROWS, after), what)
        yield "".join(_csv_line(_row(one)) if form == "csv" else json.dumps(_row(one)) + "\n" for one in page.items)
        after = page.next_key
        if after is None:
            return


def _row(entry: AuditEntry) -> dict[str, object]:
    found: dict[str, object] = {name: getattr(entry, name) for name in COLUMNS}
    return found | {"at": f"{entry.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}


def _csv_line(row: Mapping[str, object]) -> str:
    """Return a line. What a spreadsheet would take for a formula gets a quote before it: objects are addresses that callers chose."""
    out = io.StringIO()
    texts = [str(row[name]) for name in COLUMNS]
    csv.writer(out).writerow([f"'{text}" if text.startswith(_FORMULA) else text for text in texts])
    return out.getvalue()
