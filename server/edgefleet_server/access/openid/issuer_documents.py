"""What an issuer publishes: its configuration and its public keys, read with bounds. Pure.

Configuration: OpenID Connect Discovery 1.0 §4. Keys: RFC 7517. Only keys for asymmetric signatures are taken, each for the algorithms of
its kind alone, so that no public key is ever used as a shared secret (RFC 8725 §3.1).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jwt import PyJWK, PyJWTError

from edgefleet_server.access.errors import IssuerUnavailableError

CONFIGURATION: Final = "/.well-known/openid-configuration"
MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2048
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS: Final = frozenset({*_RSA, *(one for names in _CURVES.values() for one in names)})


@dataclass(frozen=True, slots=True)
class Configuration:
    """Where an issuer has its keys, and for sign-ins of people where it asks them. "": it does not say."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    says_issuer: bool = False
    """It names itself in each answer to a browser (RFC 9207)."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key of an issuer, and the algorithms it may have signed with."""

    kid: str
    algorithms: tuple[str, ...]
    key: Any = field(compare=False)


def read_configuration(issuer: str, body: bytes) -> Configuration:
    """Return an issuer's configuration. Raises IssuerUnavailableError where it is none, or speaks for another issuer."""
    found = _object(issuer, body)
    if found.get("issuer") != issuer:
        raise _bad(issuer, f"its configuration is that of {str(found.get('issuer'))[:120]!r}")
    texts = {name: found.get(name, "") for name in ("jwks_uri", "authorization_endpoint", "token_endpoint")}
    if not all(isinstance(text, str) for text in texts.values()) or not texts["jwks_uri"]:
        raise _bad(issuer, "its configuration names no jwks_uri")
    says_issuer = found.get("authorization_response_iss_parameter_supported") is True
    return Configuration(issuer, **texts, says_issuer=says_issuer)


def read_keys(issuer: str, body: bytes) -> dict[str, IssuerKey]:
    """Return the usable keys of a key set by id. Raises IssuerUnavailableError where it has none, or too many."""
    listed = _object(issuer, body).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise _bad(issuer, f"its key set is no list of at most {MAX_KEYS} keys")
    found: dict[str, IssuerKey] = {}
    for one in listed:
        key = _key(one) if isinstance(one, dict) else None
        if key is not None:
            found.setdefault(key.kid, key)
    if not found:
        raise _bad(issuer, "its key set has no key that can verify a signature")
    return found


def _key(one: Mapping[str, Any]) -> IssuerKey | None:
    """Return a key, None for one that is not for signatures, is private, weak, or of a kind that is not taken."""
    kid, kind, named = one.get("kid"), one.get("kty"), one.get("alg")
    if not isinstance(kid, str) or not kid or "d" in one or one.get("use", "sig") != "sig":
        return None
    algorithms = _RSA if kind == "RSA" else _CURVES.get((str(kind), str(one.get("crv"))), ())
    if named is not None:
        algorithms = tuple(name for name in algorithms if name == named)
    if not algorithms:
        return None
    try:
        key = PyJWK(dict(one), algorithms[0]).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    return None if kind == "RSA" and key.key_size < MIN_RSA_BITS else IssuerKey(kid, algorithms, key)


def _object(issuer: str, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _bad(issuer, "what it answers is no JSON object")
    return found


def _bad(issuer: str, why: str) -> IssuerUnavailableError:
    return IssuerUnavailableError(
        f"the issuer {issuer} cannot be used: {why}", next_step="correct the issuer's address, or mend the issuer"
    )
