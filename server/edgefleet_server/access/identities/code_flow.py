"""The authorization code flow with one issuer: where the browser goes, and the ID token that its code is exchanged for. Calls block.

The protocol is Authlib's: the address with state, nonce and PKCE (S256), the request to the token endpoint, and the
rules about nonce, azp and at_hash of an ID token. What it sends goes through `outbound`; keys and signatures are those of `access.openid`.

State, nonce and code verifier are derived from one secret, which is in the cookie of the browser that began, and nowhere else.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.errors import (
    BadIdTokenError,
    IdentityRefusedError,
    IssuerUnavailableError,
    LoginRefusedError,
)
from edgefleet_server.access.openid.id_tokens import LEEWAY_S, IdTokens
from edgefleet_server.access.openid.issuer_documents import Configuration
from edgefleet_server.identity_provider import LOOPBACK, IdentityProvider
from edgefleet_server.outbound.http_post import Fetched

TIMEOUT_S: Final = 10.0
MAX_ANSWER: Final = 256 * 1024
_OK: Final = 200


class Sender(Protocol):
    """What sends requests to addresses that were checked."""

    def send(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, limit: int) -> Fetched:
        """POST a body and return the whole answer. Raises EdgefleetError."""
        ...


@dataclass(frozen=True, slots=True)
class Proofs:
    """What ties an answer of an issuer to the browser that asked."""

    state: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    def of(cls, secret: str) -> "Proofs":
        """Return the proofs of a browser's secret: 43 characters each."""
        return cls(*(_derived(secret, purpose) for purpose in ("state", "nonce", "code verifier")))


class CodeFlow:
    """The flow with one provider."""

    def __init__(
        self, provider: IdentityProvider, redirect_uri: str, sender: Sender, tokens: IdTokens, clock: Clock
    ) -> None:
        """Wire the parts."""
        self._provider = provider
        self._redirect_uri = redirect_uri
        self._sender = sender
        self._tokens = tokens
        self._clock = clock

    def address(self, configuration: Configuration, proofs: Proofs) -> str:
        """Return the address that the browser goes to. Raises IssuerUnavailableError when the issuer has none."""
        if not configuration.authorization_endpoint or not configuration.token_endpoint:
            raise self._unavailable("its configuration names no authorization_endpoint and token_endpoint")
        if not _leads_to_https(configuration.authorization_endpoint):
            raise self._unavailable("its authorization_endpoint is not https://HOST/…")
        more = {"acr_values": " ".join(self._provider.acr)} if self._provider.acr else {}
        client = self._client(None)
        url, _ = client.create_authorization_url(
            configuration.authorization_endpoint, proofs.state, proofs.verifier, nonce=proofs.nonce, **more
        )
        return str(url)

    def claims(self, configuration: Configuration, proofs: Proofs, query: str, secret: str | None) -> Mapping[str, Any]:
        """Return the claims of the ID token for an answer. query: of the address that the issuer led the browser to.

        Raises LoginRefusedError, IdentityRefusedError, IssuerUnavailableError.
        """
        code = self._code_in(configuration, proofs, query)
        client = self._client(secret)
        try:
            answer = client.fetch_token(
                configuration.token_endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=proofs.verifier,
                redirect_uri=self._redirect_uri,
            )
        except (AuthlibBaseError, ValueError) as error:
            raise self._no_token(error) from error
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise self._unavailable("it answered with no ID token; is `openid` among the scopes of this client?")
        try:
            found = self._tokens.claims(token, {self._provider.issuer}, self._provider.client_id)
            self._check_claims(token, found, proofs, str(answer.get("access_token") or ""))
        except (BadIdTokenError, AuthlibBaseError, JoseError) as error:
            raise IdentityRefusedError(
                f"what {self._provider.title} said of you is refused: {error}",
                next_step="sign in again; if it stays so, compare issuer, client_id and clock in the settings of this server",
            ) from error
        return found

    def _code_in(self, configuration: Configuration, proofs: Proofs, query: str) -> str:
        """Return the code of an answer; refuse one of another sign-in, of another issuer, or an error."""
        try:
            fields = parse_qs(query, keep_blank_values=True, max_num_fields=20)
        except ValueError as error:
            raise refused_return() from error
        if any(len(values) != 1 for values in fields.values()):
            raise refused_return()
        if not hmac.compare_digest(fields.get("state", [""])[0].encode(), proofs.state.encode()):
            raise refused_return()
        issuer = fields.get("iss", [""])[0]
        if (issuer or configuration.says_issuer) and issuer != configuration.issuer:  # RFC 9207
            raise IdentityRefusedError(
                f"the answer is not of {self._provider.title}, which was asked",
                next_step="sign in again; if it stays so, tell an admin: another issuer tries to pass for this one",
            )
        if "error" in fields:
            raise IdentityRefusedError(
                f"{self._provider.title} did not sign you in ({_said(fields['error'][0])})", next_step="sign in again"
            )
        if not (code := fields.get("code", [""])[0]):
            raise refused_return()
        return code

    def _check_claims(self, token: str, claims: Mapping[str, Any], proofs: Proofs, access_token: str) -> None:
        """Check what OpenID Connect says of an ID token beyond its signature. Raises JoseError, AuthlibBaseError, BadIdTokenError."""
        if not isinstance(claims.get("at_hash", ""), str):
            raise BadIdTokenError("its at_hash is no text", next_step="mend the issuer")
        params = {"nonce": proofs.nonce, "client_id": self._provider.client_id, "access_token": access_token}
        checked = CodeIDToken(dict(claims), jwt.get_unverified_header(token), {}, params)
        checked.validate(now=int(self._clock.now().timestamp()), leeway=int(LEEWAY_S))

    def _client(self, secret: str | None) -> OAuth2Client:
        return OAuth2Client(
            _Session(self._sender),
            client_id=self._provider.client_id,
            client_secret=secret,
            token_endpoint_auth_method=self._provider.client_auth if secret else "none",
            scope=" ".join(self._provider.scopes),
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
        )

    def _no_token(self, error: Exception) -> EdgefleetError:
        if isinstance(error, AuthlibBaseError) and error.error == "invalid_grant":
            return refused_return()
        what = _said(error.error) if isinstance(error, AuthlibBaseError) else str(error)[:200]
        return self._unavailable(f"it gave no token for the code: {what}")

    def _unavailable(self, why: str) -> IssuerUnavailableError:
        return IssuerUnavailableError(
            f"{self._provider.title} cannot sign you in: {why}",
            next_step="an admin compares client_id, client_secret and the redirect address with the identity provider's",
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What Authlib reads of an answer."""

    status_code: int
    body: bytes

    def raise_for_status(self) -> None:
        """Raise ValueError for an answer that is none."""
        if self.status_code != _OK:
            raise ValueError(f"its token endpoint answered {self.status_code}")

    def json(self) -> Any:
        """Return the body. Raises ValueError."""
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("its answer cannot be read") from error


class _Session:
    """What Authlib sends with: one request each, through the rules about addresses."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def post(self, url: str, *, data: Mapping[str, str], headers: Mapping[str, str], auth: Any) -> _Answer:
        """Send a form. Raises ValueError where no answer came."""
        url, sent, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        try:
            answer = self._sender.send(url, body.encode(), sent, TIMEOUT_S, MAX_ANSWER)
        except EdgefleetError as error:
            raise ValueError(str(error)) from error
        return _Answer(answer.status, answer.body)


def refused_return() -> LoginRefusedError:
    """Return the refusal of an answer that belongs to no sign-in of this browser."""
    return LoginRefusedError(
        "this sign-in was not begun in this browser, was ended already, or took longer than 10 minutes",
        next_step="begin again on the sign-in page",
    )


def _said(code: object) -> str:
    """Return an error code of an issuer, which may be any text, for reading."""
    return "".join(char for char in str(code)[:400] if char.isalnum() or char == "_")[:40]


def _leads_to_https(address: str) -> bool:
    try:
        there = urlsplit(address)
    except ValueError:
        return False
    return bool(there.hostname) and (there.scheme == "https" or (there.scheme == "http" and there.hostname in LOOPBACK))


def _derived(secret: str, purpose: str) -> str:
    digest = hmac.new(secret.encode(), f"edgefleet sign-in {purpose}".encode(), sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
