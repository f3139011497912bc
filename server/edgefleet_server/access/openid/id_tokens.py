"""What makes an ID token valid: signature, issuer, audience and time (OpenID Connect Core 1.0 §3.1.3.7, RFC 8725).

Whose word a token's claims are is known only after its issuer's signature was checked. Before, its `iss` is read for one purpose: to
choose among the issuers that an admin named. Our `Clock` decides what time it is, not PyJWT.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

import jwt

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.errors import BadIdTokenError
from edgefleet_server.access.openid.issuer_documents import ALGORITHMS
from edgefleet_server.access.openid.issuer_keys import IssuerKeys

MAX_CHARS: Final = 16 * 1024
MAX_JTI_CHARS: Final = 255
LEEWAY_S: Final = 30.0
MAX_LIFE_S: Final = 24 * 3600.0
_TIMES: Final[dict[str, Any]] = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
_UNREAD: Final[Any] = {"verify_signature": False, "verify_aud": False, "verify_iss": False, **_TIMES}
_OPTIONS: Final[dict[str, Any]] = {"require": ["iss", "sub", "aud", "exp", "iat"], "verify_aud": False, **_TIMES}


class IdTokens:
    """Checks ID tokens. Thread-safe; calls may block for an issuer."""

    def __init__(self, keys: IssuerKeys, clock: Clock) -> None:
        """Wire the parts."""
        self._keys = keys
        self._clock = clock

    def claims(self, token: str, issuers: Collection[str], audience: str) -> Mapping[str, Any]:
        """Return the claims of a valid token of one of these issuers. Raises BadIdTokenError, IssuerUnavailableError."""
        algorithm, kid, issuer = _head(token)
        if issuer not in issuers:
            raise _bad(f"nothing here trusts its issuer {issuer[:120]!r}")
        key = self._keys.key(issuer, kid)
        if algorithm not in key.algorithms:
            raise _bad(f"the issuer's key {kid[:80]!r} does not sign with {algorithm}")
        try:
            claims = jwt.decode(token, key.key, algorithms=[algorithm], issuer=issuer, options=_OPTIONS)  # type: ignore[arg-type]
        except jwt.PyJWTError as error:
            raise _bad(str(error)) from error
        _check_audience(claims, audience)
        _check_times(claims, self._clock.now())
        return claims


def end_of(claims: Mapping[str, Any]) -> float:
    """Return the unix seconds from which on a checked token is refused."""
    return float(claims["exp"]) + LEEWAY_S


def _head(token: str) -> tuple[str, str, str]:
    """Return algorithm, key id and issuer that a token names. Nothing is verified."""
    if len(token) > MAX_CHARS:
        raise _bad(f"it has more than {MAX_CHARS} characters")
    try:
        header = jwt.get_unverified_header(token)
        issuer = jwt.decode(token, options=_UNREAD).get("iss")
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _bad("it cannot be read") from error
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise _bad(f"its algorithm {str(algorithm)[:20]!r} is not one of {', '.join(sorted(ALGORITHMS))}")
    if "crit" in header or not isinstance(kid, str) or not kid or not isinstance(issuer, str):
        raise _bad("its header or its issuer cannot be used")
    return algorithm, kid, issuer


def _check_audience(claims: Mapping[str, Any], audience: str) -> None:
    """Refuse a token that is not for this server alone: one that others hold too is not proof that its owner speaks to us."""
    given = claims["aud"]
    meant = given if isinstance(given, list) else [given]
    if meant != [audience]:
        raise BadIdTokenError(
            f"the ID token is meant for {', '.join(str(one)[:120] for one in meant[:3])!r}, and this server is {audience!r}",
            next_step=f"ask for a token with the audience {audience}; `dashboard_url` of server.toml is the address that holds",
        )


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    times = {name: claims.get(name, claims["iat"]) for name in ("exp", "iat", "nbf")}
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times.values()):
        raise _bad("its times are no numbers")
    now_s, leeway = now.timestamp(), LEEWAY_S
    if not now_s < times["exp"] + leeway:
        raise _bad("it has expired")
    if not max(times["iat"], times["nbf"]) <= now_s + leeway:
        raise _bad("it is not valid yet; is the server's clock right?")
    if not times["exp"] - times["iat"] <= MAX_LIFE_S:
        raise _bad(f"it lives longer than {MAX_LIFE_S / 3600:g} h")


def _bad(why: str) -> BadIdTokenError:
    return BadIdTokenError(
        f"the ID token is refused: {why}",
        next_step="get a new one from the issuer, for this server, and send it at once",
    )
