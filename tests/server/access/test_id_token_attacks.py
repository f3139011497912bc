"""ID tokens that a hostile or broken issuer, or somebody between, hands to a sign-in; and what claims are worth."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_server.access.errors import IdentityRefusedError, IssuerUnavailableError, LoginRefusedError
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.identities.claim_rules import (
    grants_by_value,
    grants_of,
    groups_of,
    refuse_unless_allowed,
    shown_name,
)
from edgefleet_server.access.identities.code_flow import CodeFlow, Proofs
from edgefleet_server.access.model import Grant, Role
from edgefleet_server.access.openid.id_tokens import IdTokens
from edgefleet_server.access.openid.issuer_documents import Configuration
from edgefleet_server.access.openid.issuer_keys import IssuerKeys
from edgefleet_server.identity_provider import IdentityProvider
from edgefleet_server.outbound.http_post import Fetched
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import load_settings
from tests.house.tree import ROOT
from tests.server.access.local_issuer import LocalIssuer, another_key, rsa_key
from tests.support.servers import HandClock

ISSUER: Final = "https://id.example"
BACK: Final = "https://fleet.example/login/with/corp/callback"
PROOFS: Final = Proofs.of("a browser's secret")
ANSWER: Final = f"code=abc&state={PROOFS.state}&iss=https%3A%2F%2Fid.example"
CONFIGURATION: Final = Configuration(ISSUER, f"{ISSUER}/keys", f"{ISSUER}/auth", f"{ISSUER}/token", says_issuer=True)
NOW: Final = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)


def provider(**changes: Any) -> IdentityProvider:
    """Return the settings of an issuer whose group `ops` gives the role operator at the line."""
    usual: dict[str, Any] = {
        "name": "corp", "issuer": ISSUER, "client_id": "edgefleet",
        "roles": [{"value": "ops", "role": "operator", "groups": ["line"]}],
    }  # fmt: skip
    return IdentityProvider(**{**usual, **changes})


class Hands:
    """Answers the token endpoint, and keeps what was sent."""

    def __init__(self, body: Any, status: int = 200) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.sent: list[tuple[str, str, Mapping[str, str]]] = []

    def send(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, limit: int) -> Fetched:
        """Answer in the place of the network."""
        assert (timeout_s, limit) == (10.0, 256 * 1024)
        self.sent.append((url, body.decode(), headers))
        return Fetched(self.status, self.body)


def flow(hands: Hands, **changes: Any) -> CodeFlow:
    """Return the flow with an issuer whose token endpoint hands do."""
    clock = HandClock(NOW)
    tokens = IdTokens(IssuerKeys(LocalIssuer(ISSUER).fetch, clock), clock)
    return CodeFlow(provider(**changes), BACK, hands, tokens, clock)


def claims(**changes: Any) -> dict[str, Any]:
    """Return right claims, changed; None leaves one out."""
    now_s = int(NOW.timestamp())
    right = {
        "iss": ISSUER, "sub": "u-1", "aud": "edgefleet", "exp": now_s + 300, "iat": now_s, "nonce": PROOFS.nonce, "groups": ["ops"],
    }  # fmt: skip
    return {name: value for name, value in {**right, **changes}.items() if value is not None}


def signed(header: dict[str, Any] | None = None, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
    """Return a signed token."""
    return jwt.encode(claims(**changes), key or rsa_key(), algorithm=algorithm, headers={"kid": "k1", **(header or {})})


def unsigned(**changes: Any) -> str:
    """Return a token that says that nobody signed it."""
    parts = ({"alg": "none", "kid": "k1"}, claims(**changes))
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in parts) + "."


def confused() -> str:
    """Return a token that takes the issuer's public key for a shared secret."""
    public = (
        rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    head, body = ({"alg": "HS256", "kid": "k1"}, claims())
    text = ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in (head, body))
    signature = hmac.new(public, text.encode(), "sha256").digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_the_flow_asks_with_pkce_and_takes_a_right_token() -> None:
    hands = Hands({"access_token": "at", "token_type": "Bearer", "id_token": signed()})
    asked = flow(hands)
    address = asked.address(CONFIGURATION, PROOFS)
    assert address.startswith(f"{ISSUER}/auth?response_type=code&client_id=edgefleet&redirect_uri=https%3A%2F%2Ffleet")
    assert "code_challenge_method=S256" in address
    assert (PROOFS.verifier in address, PROOFS.nonce in address) == (False, True)
    assert asked.claims(CONFIGURATION, PROOFS, ANSWER, "s:cret")["sub"] == "u-1"
    url, body, headers = hands.sent[0]
    assert (url, f"code_verifier={PROOFS.verifier}" in body, "s%3Acret" in body) == (f"{ISSUER}/token", True, False)
    assert headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("made", [
    lambda: signed(nonce="another"), lambda: signed(nonce=None), lambda: signed(aud="another client"),
    lambda: signed(aud=["edgefleet", "another client"]), lambda: signed(azp="another client"), lambda: signed(iss="https://evil.example"),
    lambda: signed(sub=None), lambda: signed(exp=int(NOW.timestamp()) - 31), lambda: signed(iat=int(NOW.timestamp()) + 60),
    lambda: signed(exp=int(NOW.timestamp()) + 2 * 86_400), lambda: signed(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    lambda: signed(key=another_key()), lambda: signed({"kid": "k2"}), unsigned, confused, lambda: signed()[:-8] + "AAAAAAAA",
    lambda: "no.token.atall", lambda: signed(at_hash=["a"]), lambda: signed(at_hash={"a": 1}),
])  # fmt: skip
def test_a_wrong_id_token_lets_nobody_in(made: Callable[[], str]) -> None:
    hands = Hands({"access_token": "at", "token_type": "Bearer", "id_token": made()})
    with pytest.raises((IdentityRefusedError, IssuerUnavailableError)):
        flow(hands).claims(CONFIGURATION, PROOFS, ANSWER, None)


@pytest.mark.parametrize(("query", "raised"), [
    (ANSWER.replace("code=abc", "code="), LoginRefusedError), (ANSWER + "&code=b", LoginRefusedError),
    (ANSWER.replace("&state=", "&x="), LoginRefusedError), (ANSWER.partition("&iss")[0], IdentityRefusedError),
    (ANSWER.replace("id.example", "evil.example"), IdentityRefusedError), (ANSWER + "&error=<b>", IdentityRefusedError),
    ("&".join(f"a{n}=1" for n in range(50)), LoginRefusedError),
])  # fmt: skip
def test_no_code_is_sent_for_an_answer_that_is_not_ours(query: str, raised: type[Exception]) -> None:
    hands = Hands({})
    with pytest.raises(raised) as refused:
        flow(hands).claims(CONFIGURATION, PROOFS, query, None)
    assert (hands.sent, "<b>" in str(refused.value)) == ([], False)


@pytest.mark.parametrize(("body", "status", "raised"), [
    ({"error": "invalid_grant"}, 400, LoginRefusedError), ({"error": "invalid_client"}, 401, IssuerUnavailableError),
    (b"<html>", 200, IssuerUnavailableError), (b"oops", 502, IssuerUnavailableError), ({"access_token": "a"}, 200, IssuerUnavailableError),
    (b"[" * 100_000, 200, IssuerUnavailableError), ({"error": "x" * 100_000}, 400, IssuerUnavailableError),
    ({"error": {"a": "<b>"}}, 400, IssuerUnavailableError), ([], 200, IssuerUnavailableError),
    ({"id_token": 7}, 200, IssuerUnavailableError),
])  # fmt: skip
def test_a_token_endpoint_that_gives_no_token_is_said(body: Any, status: int, raised: type[Exception]) -> None:
    with pytest.raises(raised) as said:
        flow(Hands(body, status)).claims(CONFIGURATION, PROOFS, ANSWER, "secret")
    assert (len(str(said.value)) < 300, "<" in str(said.value)) == (True, False)


@pytest.mark.parametrize(
    "there", ["javascript:alert(1)", "http://id.example/auth", "", "https:///auth", "https://[x/auth"]
)
def test_a_browser_is_led_to_https_only(there: str) -> None:
    with pytest.raises(IssuerUnavailableError):
        flow(Hands({})).address(Configuration(ISSUER, f"{ISSUER}/keys", there, f"{ISSUER}/token"), PROOFS)


def test_proofs_of_two_browsers_share_nothing() -> None:
    parts = {
        part
        for secret in ("a", "b", "")
        for one in [Proofs.of(secret)]
        for part in (one.state, one.nonce, one.verifier)
    }
    assert (len(parts), {len(part) for part in parts}) == (9, {43})


ROLES: Final = [
    {"value": "a", "role": "operator", "models": ["digits"], "groups": ["x"]},
    {"value": "b", "role": "operator", "models": ["faces"], "groups": ["y"]},
    {"value": "b", "role": "viewer"},
]


def test_grants_of_two_groups_stay_two_grants() -> None:
    """One in the scope of the other model would be CVE-2026-33552 again."""
    found = grants_of(provider(roles=ROLES), {"groups": ["b", "c", "a"]})
    first = Grant(Role.OPERATOR, Scope(frozenset({"digits"}), frozenset({"x"})))
    second = Grant(Role.OPERATOR, Scope(frozenset({"faces"}), frozenset({"y"})))
    assert found == (first, second, Grant(Role.VIEWER))


@pytest.mark.parametrize("value", [None, [], ["A"], ["a "], ["ab"], [["a"]], [7], {"a": True}, 7, "", "lunch", True])
def test_a_claim_of_another_form_gives_nothing(value: Any) -> None:
    with pytest.raises(IdentityRefusedError):
        grants_of(provider(roles=ROLES), {"groups": value} if value is not None else {})


def test_a_claim_may_lie_in_an_object_or_have_dots_in_its_name() -> None:
    nested = provider(groups_claim="realm_access.roles")
    assert groups_of(nested, {"realm_access": {"roles": ["ops"]}}) == {"ops"}
    assert groups_of(nested, {"realm_access.roles": ["ops"]}) == {"ops"}
    assert groups_of(nested, {"realm_access": ["roles"]}) == frozenset()


@pytest.mark.parametrize(("rules", "said", "is_in"), [
    ({}, {}, True),
    ({"subjects": ["u-2"]}, {}, False), ({"subjects": ["u-1"]}, {}, True),
    ({"email_domains": ["corp.example"]}, {"email": "a@corp.example", "email_verified": True}, True),
    ({"email_domains": ["Corp.Example"]}, {"email": "a@CORP.example", "email_verified": True}, True),
    ({"email_domains": ["corp.example"]}, {"email": "a@corp.example"}, False),
    ({"email_domains": ["corp.example"]}, {"email": "a@corp.example", "email_verified": "true"}, False),
    ({"email_domains": ["corp.example"]}, {"email": "a@evil.corp.example", "email_verified": True}, False),
    ({"email_domains": ["corp.example"]}, {"email": "a@evil.example@corp.example", "email_verified": True}, False),
    ({"email_domains": ["corp.example"]}, {}, False),
    ({"acr": ["gold"]}, {"acr": "gold"}, True), ({"acr": ["gold"]}, {"acr": "lead"}, False), ({"acr": ["gold"]}, {"acr": ["gold"]}, False),
    ({"amr": ["mfa", "otp"]}, {"amr": ["pwd", "otp"]}, True), ({"amr": ["mfa"]}, {"amr": ["pwd"]}, False),
    ({"amr": ["mfa"]}, {"amr": "mfa"}, False),
    ({}, {"sub": ""}, False), ({}, {"sub": "x" * 256}, False),
    ({}, {"sub": "a\0"}, False), ({}, {"sub": "a\x1b[2J"}, False), ({}, {"sub": "\ud800"}, False),
    ({}, {"sub": "auth0|5f7c8ec7"}, True), ({}, {"sub": 7}, False),
])  # fmt: skip
def test_who_is_kept_out(rules: dict[str, Any], said: dict[str, Any], is_in: bool) -> None:
    claimed = {"sub": "u-1", **said}
    if is_in:
        refuse_unless_allowed(provider(**rules), claimed)
    else:
        with pytest.raises(IdentityRefusedError):
            refuse_unless_allowed(provider(**rules), claimed)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["preferred_username", "email", "name", "sub"]), st.text() | st.integers()))
def test_a_shown_name_is_short_and_has_no_marks(said: dict[str, Any]) -> None:
    name = shown_name(said)
    assert 1 <= len(name) <= 60
    assert not set(name) & set('<>()"\0\n\u202e')


@pytest.mark.parametrize("wrong", [
    {"issuer": "http://id.example"}, {"issuer": "https://id.example/?a=b"}, {"name": "Corp"}, {"scopes": ["profile"]}, {"roles": []},
    {"session_s": 60}, {"session_s": 86_400}, {"client_secret": "a", "client_secret_file": "b"}, {"new_people": "maybe"}, {"colour": "red"},
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_and_no_secret_is_said(tmp_path: Path, wrong: dict[str, Any]) -> None:
    right = {"name": "corp", "issuer": ISSUER, "client_id": "edgefleet", "client_secret": "hunter2", "roles": ROLES}
    one = {**right, **wrong}
    with pytest.raises(SettingsError) as refused:
        load_settings(tmp_path, dashboard_url="https://fleet.example", identity_providers=[one])
    assert "hunter2" not in str(refused.value)
    for address in ("", "http://fleet.example"):
        with pytest.raises(SettingsError):
            load_settings(tmp_path, dashboard_url=address, identity_providers=[right])
    twice = [right, {**right, "name": "two"}]
    with pytest.raises(SettingsError):
        load_settings(tmp_path, dashboard_url="https://fleet.example", identity_providers=twice)


def test_the_example_of_the_page_is_what_the_server_takes(tmp_path: Path) -> None:
    text = (ROOT / "docs/operate/identity-providers.md").read_text("utf-8")
    found = text.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "server.toml").write_text(found)
    loaded = load_settings(tmp_path)
    assert [grant.role for value in grants_by_value(loaded.identity_providers[0]).values() for grant in value] == [
        "admin",
        "operator",
    ]
    table = text.partition("| setting |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == set(IdentityProvider.model_fields) - {"client_secret"}


def test_the_client_secret_comes_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    one = {"name": "corp", "issuer": ISSUER, "client_id": "edgefleet", "client_secret_file": str(file), "roles": ROLES}
    loaded = load_settings(tmp_path, dashboard_url="https://fleet.example", identity_providers=[one])
    with pytest.raises(SettingsError):
        loaded.client_secret(loaded.identity_providers[0])
    for text in ("first", "second"):
        file.write_text(text + "\n")
        assert loaded.client_secret(loaded.identity_providers[0]) == text
