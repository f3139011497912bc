"""Device tokens: ES256 JWTs that a device signs with its own key, once for each HTTPS request.

Only this module reads JWTs of devices. Claims: `sub` device id, `aud` server id, `exp` at most five
minutes ahead, `jti` used once, `csr` the SHA-256 (hex) of the certificate request that it is for, if any.
Our `Clock` decides what time it is, not PyJWT.

The replay cache is memory of this process, bounded: a token lives five minutes at most, and every route behind it is
safe to repeat.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import jwt

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, ProfileName, parse_device_id
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.enrolment.enrolment import Enroller
from edgefleet_server.fleet.enrolment.model import DeviceIdentity
from edgefleet_server.fleet.enrolment.server_addresses import ServerAddresses
from edgefleet_server.fleet.errors import BadDeviceTokenError, CertificateEndedError, DeviceRevokedError

METADATA: Final = "/tuf"
"""Behind the server's id in the `aud` of a token: it is good for metadata only."""
MAX_LIFE_S: Final = 300
LEEWAY_S: Final = 60
MAX_TOKEN_CHARS: Final = 4096
MAX_JTI_CHARS: Final = 128
MAX_REMEMBERED: Final = 200_000
_OPTIONS: Final[dict[str, Any]] = {
    "require": ["sub", "aud", "exp", "jti"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class ReplayCache:
    """Remembers which tokens were used until they expire. Safe to share between threads."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        """Remember at most `limit` tokens; beyond that the oldest are forgotten."""
        self._limit = limit
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def use(self, device: str, jti: str, until_s: float, now_s: float) -> bool:
        """Note one use; return False when this token was used before. Times are unix seconds."""
        with self._lock:
            while self._seen and (len(self._seen) >= self._limit or next(iter(self._seen.values())) < now_s):
                self._seen.popitem(last=False)
            if (device, jti) in self._seen:
                return False
            self._seen[device, jti] = until_s
            return True


class DeviceAuthenticator:
    """Knows the device behind a token. Thread-safe; calls block."""

    def __init__(self, db: Database, enroller: Enroller, addresses: ServerAddresses, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._enroller = enroller
        self._addresses = addresses
        self._clock = clock
        self._replays = ReplayCache()

    def authenticate(self, token: str, *, renews: bool = False, reads: bool = False) -> DeviceIdentity:
        """Return the device that signed a bearer token. renews: it may be one whose certificate has ended.

        reads: metadata, for which a token may be that is good for nothing else. A device shows it to a server whose certificate it cannot
        verify, to learn what is announced; its own certificate may have ended.

        Raises BadDeviceTokenError, DeviceRevokedError, CertificateEndedError.
        """
        device_id = claimed_device(token)
        now, server_id = self._clock.now(), self._addresses.server_id
        if reads and _claimed_audience(token) == server_id + METADATA:
            server_id, renews = server_id + METADATA, True
        with self._db.read() as session:
            row = store.device(session, device_id)
            if row is None:
                raise BadDeviceTokenError("the device token is refused: its device is not known here")
            if row.revoked_at is not None:
                raise DeviceRevokedError(
                    f"the device {device_id} was revoked", next_step="enrol with a new claim token"
                )
            profile, old_key, new_key = ProfileName(row.profile), row.public_key, row.next_public_key
            ended_at = row.cert_not_after

        def use(jti: str, until_s: float) -> bool:
            return self._replays.use(device_id, jti, until_s, now.timestamp())

        is_new = new_key is not None and is_signed_by(token, new_key)
        key = new_key if is_new and new_key is not None else old_key
        request = check_token(token, key, server_id, now, use)
        if ended_at <= now and not renews:
            raise CertificateEndedError(f"the certificate of {device_id} ended on {ended_at:%Y-%m-%d %H:%M} UTC")
        if is_new:
            self._enroller.promote_key(device_id, key)
        return DeviceIdentity(device_id, profile, key, request)


def _claimed_audience(token: str) -> object:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims.get("aud")


def claimed_device(token: str) -> DeviceId:
    """Return the id that a token claims; nothing is verified. Raises BadDeviceTokenError."""
    if len(token) > MAX_TOKEN_CHARS:
        raise _bad("it is too long")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return parse_device_id(str(claims.get("sub", "")))
    except (jwt.PyJWTError, EdgefleetError, ValueError) as e:
        raise _bad("it cannot be read") from e


def check_token(token: str, public_key: str, server_id: str, now: datetime, use: Callable[[str, float], bool]) -> str:
    """Accept a token signed by `public_key` (PEM, P-256) for this server, now, for the first time; return its `csr`, "" without one.

    use(jti, until unix s) says whether it is the first use. Raises BadDeviceTokenError.
    """
    try:
        claims = jwt.decode(token, public_key, algorithms=["ES256"], audience=server_id, options=_OPTIONS)  # type: ignore[arg-type]
        expires_s = float(claims["exp"])
    except (jwt.PyJWTError, TypeError, ValueError) as e:
        raise _bad(str(e)) from e
    now_s = now.timestamp()
    if not now_s - LEEWAY_S < expires_s:
        raise _bad("it has expired; is the device's clock right?")
    if expires_s > now_s + MAX_LIFE_S + LEEWAY_S:
        raise _bad(f"it lives longer than {MAX_LIFE_S} s")
    jti = claims["jti"]
    if not isinstance(jti, str) or not 8 <= len(jti) <= MAX_JTI_CHARS:
        raise _bad("its jti is not a random text")
    if not use(jti, expires_s + LEEWAY_S):
        raise _bad("it was used before")
    return str(claims.get("csr", ""))


def is_signed_by(token: str, public_key: str) -> bool:
    """Return whether `public_key` (PEM) made the token's signature; nothing else is checked."""
    options: dict[str, Any] = {**_OPTIONS, "require": [], "verify_aud": False}
    try:
        jwt.decode(token, public_key, algorithms=["ES256"], options=options)  # type: ignore[arg-type]
    except jwt.PyJWTError:
        return False
    return True


def _bad(why: str) -> BadDeviceTokenError:
    return BadDeviceTokenError(
        f"the device token is refused: {why}",
        next_step="sign a fresh ES256 token with the device key: sub, aud = server_id, exp within 5 minutes, a new jti",
    )
