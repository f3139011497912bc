"""The policy: which role each route needs. One table; a route that is not in it is refused to everybody.

A token is `edg_<id>_<secret>`: id 12 characters of lower-case base32, secret 256 random bits in base64url.
"""

import re
from collections.abc import Mapping
from typing import Final

from edgefleet_server.access.model import Role

_TOKEN = re.compile(r"edg_([a-z2-7]{12})_([A-Za-z0-9_-]{43})")

POLICY: Final[Mapping[tuple[str, str], Role]] = {
    ("GET", "/api/v1/whoami"): Role.VIEWER,
    ("GET", "/api/v1/tokens"): Role.ADMIN,
    ("POST", "/api/v1/tokens"): Role.ADMIN,
    ("DELETE", "/api/v1/tokens/{token_id}"): Role.ADMIN,
    ("GET", "/api/v1/audit"): Role.ADMIN,
    ("PUT", "/api/v1/blobs/{sha256}"): Role.PUBLISHER,
    ("HEAD", "/api/v1/blobs/{sha256}"): Role.VIEWER,
    ("GET", "/api/v1/blobs/{sha256}"): Role.VIEWER,
    ("POST", "/api/v1/releases"): Role.PUBLISHER,
    ("GET", "/api/v1/releases"): Role.VIEWER,
    ("GET", "/api/v1/releases/{ref}"): Role.VIEWER,
    ("GET", "/api/v1/releases/{ref}/devices"): Role.VIEWER,
    ("POST", "/api/v1/releases/{ref}:deploy"): Role.OPERATOR,
    ("GET", "/api/v1/models"): Role.VIEWER,
    ("GET", "/api/v1/models/{name}"): Role.VIEWER,
    ("GET", "/api/v1/profiles"): Role.VIEWER,
    ("GET", "/api/v1/profiles/{name}"): Role.VIEWER,
    ("GET", "/api/v1/devices"): Role.VIEWER,
    ("GET", "/api/v1/devices/{device_id}"): Role.VIEWER,
    ("PATCH", "/api/v1/devices/{device_id}"): Role.OPERATOR,
    ("DELETE", "/api/v1/devices/{device_id}"): Role.OPERATOR,
    ("GET", "/api/v1/devices/{device_id}/events"): Role.VIEWER,
    ("GET", "/api/v1/devices/{device_id}/telemetry"): Role.VIEWER,
    ("GET", "/api/v1/enrollments"): Role.VIEWER,
    ("POST", "/api/v1/enrollments"): Role.OPERATOR,
    ("GET", "/api/v1/events"): Role.VIEWER,
    ("GET", "/api/v1/fleet/summary"): Role.VIEWER,
}


def role_of(method: str, path: str) -> Role | None:
    """Return the role that a route (its template, not the address) needs; None = nobody may."""
    return POLICY.get((method, path))


def split_token(token: str) -> tuple[str, str] | None:
    """Return (id, secret) of a well-formed token, else None."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match.group(1), match.group(2))
