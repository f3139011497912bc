"""Jobs of CI sign in by their ID tokens, and nothing else does: what is trusted, a table of attacks, and a slow or hostile issuer.

The issuer is a stand-in (`local_issuer.py`): the claims have the form that GitHub and GitLab document, and no real CI was asked.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.errors import (
    BadGrantError,
    BadIdTokenError,
    BadPipelineError,
    BadTokenError,
    ExpiredTokenError,
    IssuerUnavailableError,
    PipelineExistsError,
    TooManyRequestsError,
    UnknownPersonError,
    UnknownPipelineError,
    UntrustedPipelineError,
    UsedIdTokenError,
)
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.grants.schemas import RolesIn
from edgefleet_server.access.model import Grant, PersonKind, Role
from edgefleet_server.access.openid.id_tokens import IdTokens
from edgefleet_server.access.openid.issuer_documents import read_keys
from edgefleet_server.access.openid.issuer_keys import AFTER_FAILURE_S, AGAIN_S, FRESH_S, USABLE_S, IssuerKeys
from edgefleet_server.access.service import AccessService
from edgefleet_server.access.tables import PipelineRow
from edgefleet_server.access.trusted_pipelines.model import (
    ISSUERS,
    TOKEN_LIFE,
    PipelineRun,
    Provider,
    TrustedPipeline,
    checked,
    mismatch,
    run_of,
    shortened,
)
from edgefleet_server.access.trusted_pipelines.service import TRIES_A_MINUTE, PipelineBook
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import Fetched, HttpPoster
from tests.server.access.local_issuer import AUDIENCE, LocalIssuer, another_key, ec_jwk, rsa_jwk, rsa_key, rule
from tests.support.receivers import LOOPBACK, receiving
from tests.support.servers import ApiHouse, HandClock

API = "/api/v1"
NOW = HandClock().now()
GITLAB_URL = ISSUERS[Provider.GITLAB]


class Desk:
    """A book with one rule, and the issuer it trusts."""

    def __init__(self, db: Database, *rules: TrustedPipeline, url: str = ISSUERS[Provider.GITHUB]) -> None:
        self.clock = HandClock()
        self.issuer = LocalIssuer(url)
        self.access = AccessService(db, self.clock)
        self.book = PipelineBook(db, self.clock, self.access, self.issuer.fetch, AUDIENCE)
        for one in rules or (rule(),):
            self.book.add(one)

    def token(self, **changes: Any) -> str:
        """Return a token of the job on main, with other claims."""
        return self.issuer.signed(self.issuer.github(self.clock.now(), **changes))


@pytest.fixture
def desk(db: Database) -> Desk:
    return Desk(db)


def test_a_job_gets_a_token_of_its_roles_for_a_quarter_of_an_hour(desk: Desk) -> None:
    made, found = desk.book.exchange(desk.token(), "")
    caller = desk.access.authenticate(made.token)
    assert (found.name, caller.name) == ("release", "ci:github:acme/vision@refs/heads/main")
    assert (caller.roles, caller.kind) == (frozenset({Role.PUBLISHER}), PersonKind.SERVICE)
    assert desk.access.people.person("ci:github:acme/vision").id == caller.person
    session = desk.access.logins.session_of(desk.access.logins.open_session(caller).cookie)
    assert (session.principal.name, session.expires_at) == (caller.name, desk.clock.now() + TOKEN_LIFE)
    desk.clock.turn(minutes=15)
    with pytest.raises(ExpiredTokenError, match="ci:github:acme/vision"):
        desk.access.authenticate(made.token)
    desk.book.exchange(desk.token(), "")
    with pytest.raises(BadTokenError):
        desk.access.authenticate(made.token)  # what has ended is removed


def test_a_pipeline_for_a_part_of_the_fleet_gets_tokens_for_that_part(db: Database) -> None:
    part = Grant(Role.PUBLISHER, Scope(models=frozenset({"digits"})))
    desk = Desk(db, rule(roles=(), scoped=(part,)))
    caller = desk.access.authenticate(desk.book.exchange(desk.token(), "")[0].token)
    assert (caller.roles, caller.scoped) == (frozenset(), (part,))
    assert desk.book.pipeline("release").scoped == (part,)
    with db.read() as session:
        row = session.get(PipelineRow, "release")
    assert row is not None
    assert row.roles == []  # a server of the version before gives nothing


def test_the_roles_of_a_part_are_held_to_what_pipelines_may_have(db: Database) -> None:
    lines = Scope(groups=frozenset({"line-a"}))
    for wrong, error in (
        (Grant(Role.APPROVER, lines), BadPipelineError),
        (Grant(Role.PUBLISHER, lines), BadGrantError),
    ):
        with pytest.raises(error):
            Desk(db, rule(roles=(), scoped=(wrong,)))
    with pytest.raises(BadPipelineError):
        Desk(db, rule(roles=()))


def test_roles_that_are_limited_are_in_no_list_for_the_whole_fleet() -> None:
    wanted = RolesIn(roles=[Role.OPERATOR, Role.VIEWER], groups=["line-a"], models=["digits"])
    assert wanted.over_all() == (Role.VIEWER,)
    assert wanted.in_parts() == (Grant(Role.OPERATOR, Scope(frozenset({"digits"}), frozenset({"line-a"}))),)
    assert RolesIn(roles=[Role.OPERATOR]).over_all() == (Role.OPERATOR,)
    assert RolesIn(roles=[Role.OPERATOR]).in_parts() == ()


def test_a_group_that_a_pipeline_is_limited_to_stays_as_it_is(db: Database) -> None:
    desk = Desk(db)
    pinned: list[Collection[str]] = []
    desk.access.people.know_groups(pinned.append)
    desk.book.add(rule("line", roles=(), scoped=(Grant(Role.OPERATOR, Scope(groups=frozenset({"line-a"}))),)))
    assert pinned == [["line-a"]]
    assert desk.access.people.uses_group("line-a") == "a grant of line names it"


def unsigned(claims: dict[str, Any], head: dict[str, Any]) -> str:
    parts = (json.dumps(head), json.dumps(claims), "")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


def by_public_key(claims: dict[str, Any]) -> str:
    """Return a token whose HMAC secret is the issuer's public key."""
    public = rsa_key().public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = unsigned(claims, {"alg": "HS256", "kid": "k1"}).rstrip(".")
    mac = hmac.new(pem, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


ATTACKS: dict[str, tuple[Callable[[Desk], str], type[Exception], str]] = {
    "for another server": (lambda d: d.token(aud="https://other.example"), BadIdTokenError, "is meant for"),
    "for this and another server": (lambda d: d.token(aud=[AUDIENCE, "x"]), BadIdTokenError, "is meant for"),
    "alg none": (
        lambda d: unsigned(d.issuer.github(NOW), {"alg": "none", "kid": "k1"}),
        BadIdTokenError,
        "algorithm 'none'",
    ),
    "HS256 with the public key": (lambda d: by_public_key(d.issuer.github(NOW)), BadIdTokenError, "algorithm 'HS256'"),
    "signed by another key": (
        lambda d: d.issuer.signed(d.issuer.github(NOW), key=another_key()),
        BadIdTokenError,
        "verification failed",
    ),
    "another algorithm of the key": (
        lambda d: d.issuer.signed(d.issuer.github(NOW), alg="PS256"),
        BadIdTokenError,
        "does not sign with PS256",
    ),
    "a key in the head": (
        lambda d: d.issuer.signed(d.issuer.github(NOW), key=another_key(), jwk=rsa_jwk(another_key())),
        BadIdTokenError,
        "verification failed",
    ),
    "an extension that must be understood": (
        lambda d: d.issuer.signed(d.issuer.github(NOW), crit=["b64"], b64=True),
        BadIdTokenError,
        "cannot be read",
    ),
    "no key id": (lambda d: d.issuer.signed(d.issuer.github(NOW), kid=""), BadIdTokenError, "header"),
    "an unknown key id": (lambda d: d.issuer.signed(d.issuer.github(NOW), kid="k2"), BadIdTokenError, "no key 'k2'"),
    "another issuer with the same key id": (
        lambda d: d.issuer.signed(d.issuer.github(NOW, iss="https://evil.example"), key=another_key()),
        BadIdTokenError,
        "nothing here trusts its issuer",
    ),
    "expired": (lambda d: d.token(exp=int(NOW.timestamp()) - 31), BadIdTokenError, "expired"),
    "not valid yet": (lambda d: d.token(nbf=int(NOW.timestamp()) + 31), BadIdTokenError, "not valid yet"),
    "issued tomorrow": (lambda d: d.token(iat=int(NOW.timestamp()) + 86_400), BadIdTokenError, "not valid yet"),
    "for ever": (lambda d: d.token(exp=int(NOW.timestamp()) + 90_000), BadIdTokenError, "longer than 24 h"),
    "no number for ever": (lambda d: d.token(exp=float("nan")), BadIdTokenError, "expired"),
    "without an end": (lambda d: d.token(exp=None), BadIdTokenError, "exp"),
    "without an id": (lambda d: d.token(jti=None), BadIdTokenError, "no jti"),
    "no token at all": (lambda _: "edg_aaaa", BadIdTokenError, "cannot be read"),
    "too long": (lambda d: d.token(ref="x" * 20_000), BadIdTokenError, "characters"),
    "pull request of a fork": (
        lambda d: d.token(event_name="pull_request", ref="refs/pull/7/merge"),
        UntrustedPipelineError,
        "its event is pull_request",
    ),
    "pull_request_target": (lambda d: d.token(event_name="pull_request_target"), UntrustedPipelineError, "its event"),
    "workflow_run": (lambda d: d.token(event_name="workflow_run"), UntrustedPipelineError, "its event"),
    "the fork itself": (lambda d: d.token(repository="mallory/vision"), UntrustedPipelineError, "none is for mallory/vision"),
    "a name that begins so": (lambda d: d.token(repository="acme/vision-2"), UntrustedPipelineError, "none is for"),
    "another case": (lambda d: d.token(repository="ACME/vision"), UntrustedPipelineError, "none is for"),
    "another branch": (lambda d: d.token(ref="refs/heads/dev"), UntrustedPipelineError, "its ref is refs/heads/dev"),
    "a branch that begins so": (lambda d: d.token(ref="refs/heads/main2"), UntrustedPipelineError, "its ref is"),
    "a tag with the branch's name": (lambda d: d.token(ref="refs/tags/main"), UntrustedPipelineError, "its ref is"),
    "no event": (lambda d: d.token(event_name=None), BadIdTokenError, "claim event_name is missing"),
    "no repository id": (lambda d: d.token(repository_id=None), BadIdTokenError, "claim repository_id is missing"),
}  # fmt: skip


def test_no_attack_gets_a_token(db: Database) -> None:
    desk = Desk(db)
    for name, (token, kind, words) in ATTACKS.items():
        with pytest.raises(kind, match=words) as caught:
            desk.book.exchange(token(desk), "")
        assert caught.value.next_step, name  # type: ignore[attr-defined]
    assert desk.book.pipeline("release").last_used_at is None
    desk.book.exchange(desk.token(), "")  # and the real one gets it still


def test_a_token_works_once_until_it_has_ended(desk: Desk) -> None:
    token = desk.token(exp=int(NOW.timestamp()) + 1200)
    desk.book.exchange(token, "")
    for minutes in (0, 16, 3):  # the operator token has ended at 15, the ID token ends at 20
        desk.clock.turn(minutes=minutes)
        with pytest.raises(UsedIdTokenError, match="before"):
            desk.book.exchange(token, "")


def test_a_name_that_another_repository_has_now_is_not_trusted(desk: Desk) -> None:
    desk.book.exchange(desk.token(), "")
    assert desk.book.pipeline("release").repository_id == "4711"
    with pytest.raises(UntrustedPipelineError, match="the name is another repository's now"):
        desk.book.exchange(desk.token(repository_id="4712"), "")
    with pytest.raises(UntrustedPipelineError, match="none is for acme/sight"):
        desk.book.exchange(desk.token(repository="acme/sight"), "")  # renamed


def test_a_rule_that_is_removed_ends_its_tokens_and_its_id_tokens_stay_used(desk: Desk) -> None:
    token = desk.token()
    made, _ = desk.book.exchange(token, "")
    desk.book.remove("release")
    with pytest.raises(BadTokenError):
        desk.access.authenticate(made.token)
    with pytest.raises(BadIdTokenError, match="nothing here trusts its issuer"):
        desk.book.exchange(desk.token(), "")
    desk.book.add(rule())
    with pytest.raises(UsedIdTokenError):
        desk.book.exchange(token, "")
    with pytest.raises(UnknownPipelineError):
        desk.book.remove("nothing")


def test_environment_and_workflow_narrow_a_rule_and_roles_of_two_are_never_put_together(db: Database) -> None:
    workflow = ".github/workflows/release.yml"
    desk = Desk(
        db,
        rule("narrow", environment="production", workflow=workflow, roles=(Role.OPERATOR,)),
        rule("wide", ref="refs/heads/ma*"),
    )
    made, found = desk.book.exchange(desk.token(), "")
    assert (found.name, made.view.roles) == ("wide", (Role.PUBLISHER,))
    with pytest.raises(UntrustedPipelineError, match=r"more than one matches: narrow, wide"):
        desk.book.exchange(desk.token(environment="production"), "")
    made, found = desk.book.exchange(desk.token(environment="production"), "narrow")
    assert (found.name, made.view.roles) == ("narrow", (Role.OPERATOR,))
    other = "acme/vision/.github/workflows/other.yml@refs/heads/main"
    for changes, words in (
        ({}, "environment is none"),
        ({"environment": "staging"}, "environment is staging"),
        ({"environment": "production", "workflow_ref": other}, "its workflow is"),
    ):
        with pytest.raises(UntrustedPipelineError, match=words):
            desk.book.exchange(desk.token(**changes), "narrow")
    with pytest.raises(UntrustedPipelineError, match="no trusted pipeline 'gone'"):
        desk.book.exchange(desk.token(), "gone")


def test_gitlab_jobs_of_protected_refs_sign_in(db: Database) -> None:
    own = rule("tags", provider=Provider.GITLAB, issuer=GITLAB_URL, repository="acme/edge/vision", ref="refs/tags/v*")
    desk = Desk(db, own, url=GITLAB_URL)

    def token(**changes: Any) -> str:
        return desk.issuer.signed(desk.issuer.gitlab(desk.clock.now(), **changes))

    made, _ = desk.book.exchange(token(), "")
    assert made.view.name == "ci:gitlab:acme/edge/vision@refs/tags/v1.2.0"
    for changes, words in (
        ({"ref_protected": "false"}, "is not protected"),
        ({"pipeline_source": "merge_request_event"}, "its event is merge_request_event"),
        ({"ref_type": "branch"}, "its ref is refs/heads/v1.2.0"),
        ({"ref": "v"}, "its ref is refs/tags/v"),
        ({"project_path": "mallory/vision"}, "none is for mallory/vision"),
    ):
        with pytest.raises(UntrustedPipelineError, match=words):
            desk.book.exchange(token(**changes), "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repository": "acme/*"}, "without a pattern"),
        ({"repository": "acme"}, "without a pattern"),
        ({"ref": "main"}, "refs/heads/BRANCH"),
        ({"ref": "refs/heads/*"}, "behind at least one character"),
        ({"ref": "refs/heads/a*b"}, "refs/heads/BRANCH"),
        ({"ref": "refs/pull/7/merge"}, "refs/heads/BRANCH"),
        ({"roles": (Role.ADMIN,)}, "may be viewer, publisher or operator"),
        ({"roles": (Role.PUBLISHER, Role.APPROVER)}, "may be viewer, publisher or operator"),
        ({"roles": ()}, "may be viewer, publisher or operator"),
        ({"issuer": "ftp://x"}, "issuer must be"),
        ({"issuer": "https://a@b"}, "issuer must be"),
        ({"workflow": "release.yml"}, "workflow must be"),
        ({"repository_id": "x"}, "id is a number"),
        ({"provider": Provider.GITLAB, "workflow": ".github/workflows/a.yml"}, "workflow must be"),
    ],
)
def test_a_rule_that_says_too_little_or_too_much_is_not_made(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadPipelineError, match=words):
        checked(rule(**changes))


def test_a_person_of_the_services_name_or_a_disabled_service_gets_nothing(desk: Desk) -> None:
    desk.access.people.create("ci:github:acme/other", PersonKind.PERSON, by="x")
    with pytest.raises(UnknownPersonError):
        desk.book.add(rule("other", repository="acme/other"))
    with pytest.raises(PipelineExistsError):
        desk.book.add(rule())
    with pytest.raises(BadPipelineError, match="another provider"):
        desk.book.add(rule("x", provider=Provider.GITLAB, repository="a/b"))
    boss = desk.access.authenticate(desk.access.create_token("boss", [Role.ADMIN], by="x").token)
    desk.access.people.disable("ci:github:acme/vision", boss)
    with pytest.raises(UnknownPersonError, match="disabled"):
        desk.book.exchange(desk.token(), "")


REFS = st.tuples(
    st.sampled_from(["refs/heads/", "refs/tags/", "refs/pull/"]), st.text("ab/", min_size=1, max_size=3)
).map("".join)


@given(
    ref=REFS,
    wanted=REFS,
    is_open=st.booleans(),
    repository=st.sampled_from(["acme/vision", "acme/visio", "acme/vision2"]),
)
def test_a_run_is_trusted_where_repository_and_ref_are_the_rules_own(
    ref: str, wanted: str, is_open: bool, repository: str
) -> None:
    one = rule(ref=f"{wanted}*" if is_open else wanted)
    run = PipelineRun(repository, "1", ref, "push", "", "", is_protected=True)
    is_ref = ref.startswith(wanted) and ref != wanted if is_open else ref == wanted
    assert (mismatch(one, run) == "") == (is_ref and repository == "acme/vision")


@given(st.dictionaries(st.text(max_size=12), st.none() | st.text(max_size=8) | st.integers() | st.lists(st.text())))
def test_claims_of_any_shape_are_read_or_refused(claims: dict[str, Any]) -> None:
    for provider in Provider:
        with pytest.raises(BadIdTokenError):
            run_of(provider, claims)


@given(st.text(min_size=1, max_size=200))
def test_long_names_are_cut_and_stay_different(name: str) -> None:
    assert len(shortened(name)) <= 80
    assert shortened(name) != shortened(name + "x")


def test_keys_that_cannot_verify_are_left_out() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    weak = rsa_jwk(rsa_key(1024), "weak")
    private = {**rsa_jwk(rsa_key(), "private"), "d": "AQAB"}
    keys = [
        weak, private, {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}, rsa_jwk(rsa_key(), "enc", use="enc"),
        rsa_jwk(rsa_key(), "hmac", alg="HS256"), {"kty": "RSA", "kid": "torn", "n": "!", "e": "AQAB"}, "text",
        ec_jwk(curve, "ec"), rsa_jwk(rsa_key(), "any", alg=None), rsa_jwk(rsa_key()), rsa_jwk(another_key()),
    ]  # fmt: skip
    found = read_keys("https://i", json.dumps({"keys": keys}).encode())
    assert {kid: key.algorithms[0] for kid, key in found.items()} == {"ec": "ES256", "any": "RS256", "k1": "RS256"}
    for body in (
        b"[]",
        b'{"keys": []}',
        b'{"keys": {}}',
        b"{",
        b"[" * 100_000,
        json.dumps({"keys": keys * 7}).encode(),
    ):
        with pytest.raises(IssuerUnavailableError):
            read_keys("https://i", body)


def test_keys_are_fetched_seldom_whatever_tokens_come() -> None:
    clock, issuer = HandClock(), LocalIssuer()
    keys = IssuerKeys(issuer.fetch, clock)
    tokens = IdTokens(keys, clock)

    def good() -> None:
        assert tokens.claims(issuer.signed(issuer.github(clock.now())), {issuer.url}, AUDIENCE)

    good()
    for number in range(20):
        with pytest.raises(BadIdTokenError, match="no key"):
            keys.key(issuer.url, f"x{number}")
    assert len(issuer.asked) == 2
    clock.turn(seconds=AGAIN_S)
    issuer.keys.append(rsa_jwk(another_key(), "k9"))
    assert keys.key(issuer.url, "k9").kid == "k9"  # an issuer's new key is found within a minute
    clock.turn(seconds=FRESH_S)
    issuer.keys = issuer.keys[1:]
    with pytest.raises(BadIdTokenError, match="no key 'k1'"):
        good()  # and a key that was withdrawn is gone within the hour
    assert len(issuer.asked) == 6


def test_keys_outlast_an_issuer_that_is_away_for_a_while_only() -> None:
    clock, issuer = HandClock(), LocalIssuer()
    answers = [issuer.fetch]

    def fetch(url: str, timeout_s: float, limit: int) -> Fetched:
        return answers[0](url, timeout_s, limit)

    keys = IssuerKeys(fetch, clock)
    keys.key(issuer.url, "k1")
    tried: list[str] = []

    def away(url: str, _timeout_s: float, _limit: int) -> Fetched:
        tried.append(url)
        return Fetched(503, b"")

    answers[0] = away
    clock.turn(seconds=FRESH_S)
    for _ in range(5):
        keys.key(issuer.url, "k1")
    assert len(tried) == 1
    clock.turn(seconds=USABLE_S - FRESH_S)
    for _ in range(5):
        with pytest.raises(IssuerUnavailableError, match="answered 503"):
            keys.key(issuer.url, "k1")
    assert len(tried) == 2
    answers[0] = issuer.fetch
    clock.turn(seconds=AFTER_FAILURE_S)
    keys.key(issuer.url, "k1")


def test_a_slow_issuer_holds_few_threads() -> None:
    going = threading.Event()
    started = threading.Semaphore(0)

    def slow(_url: str, _timeout_s: float, _limit: int) -> Fetched:
        started.release()
        going.wait(60)
        return Fetched(500, b"")

    keys = IssuerKeys(slow, SystemClock())
    refused: list[str] = []

    def ask() -> None:
        try:
            keys.key("https://i", "k")
        except IssuerUnavailableError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for one in threads:
        one.start()
    started.acquire(timeout=60)
    deadline = time.monotonic() + 60
    while len(refused) < 15 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert sum("is slow" in one for one in refused) == 15
    going.set()
    for one in threads:
        one.join(60)
    assert len(refused) == 20


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {}, b"x" * 200_000), "larger than"),
        ((302, {"location": "https://evil.example/"}, b""), "answered 302"),
        (
            (200, {}, b'{"issuer": "https://evil.example", "jwks_uri": "https://evil.example/jwks"}'),
            "that of 'https://evil",
        ),
        ((200, {}, b"<html>"), "no JSON object"),
    ],
)
def test_what_a_hostile_issuer_answers_is_refused_over_real_sockets(answer: Any, words: str) -> None:
    clock = SystemClock()
    with receiving(lambda _got: answer) as issuer:
        url = issuer.url.removesuffix("/hook")
        keys = IssuerKeys(HttpPoster(parse_networks(LOOPBACK), clock).get, clock)
        with pytest.raises(IssuerUnavailableError, match=words):
            keys.key(url, "k1")
        strict = IssuerKeys(HttpPoster((), clock).get, clock)
        with pytest.raises(IssuerUnavailableError, match="not a public address"):
            strict.key(url, "k1")


@pytest.fixture
def calling(tmp_path: Path) -> Iterator[ApiHouse]:
    """A server that may call issuers on this machine."""
    made = ApiHouse(tmp_path / "server", webhook_networks=LOOPBACK, dashboard_url=AUDIENCE)
    yield made
    made.close()


def test_the_whole_exchange_over_rest(calling: ApiHouse) -> None:
    admin, stranger = calling.client(Role.ADMIN), calling.client()
    clock = calling.clock
    with receiving() as served:
        issuer = LocalIssuer(served.url.removesuffix("/hook"))
        served.answer = lambda got: (200, {}, issuer.document(got.path))
        body = {
            "name": "release", "provider": "github", "issuer": issuer.url, "repository": "acme/vision",
            "ref": "refs/heads/main", "roles": ["publisher"],
        }  # fmt: skip
        assert admin.post(f"{API}/trusted-pipelines", params={"dry_run": True}, json=body).status_code == 201
        assert admin.get(f"{API}/trusted-pipelines").json()["items"] == []
        made = admin.post(f"{API}/trusted-pipelines", json=body)
        assert (made.status_code, made.headers["location"]) == (201, f"{API}/trusted-pipelines/release")
        host = issuer.url.partition("//")[2]
        assert made.json()["service"] == f"ci:{host}:acme/vision"
        token = issuer.signed(issuer.github(clock.now()))
        given = stranger.post(f"{API}/pipeline-tokens", json={"id_token": token})
        assert (given.status_code, given.json()["pipeline"]) == (201, "release")
        again = stranger.post(f"{API}/pipeline-tokens", json={"id_token": token})
        assert (again.status_code, again.json()["code"]) == (401, "access.id_token_used")
        fork = issuer.signed(issuer.github(clock.now(), repository="mallory/vision"))
        assert stranger.post(f"{API}/pipeline-tokens", json={"id_token": fork}).status_code == 403
    job = type(admin)(calling.app, given.json()["token"])
    me = job.get(f"{API}/whoami").json()
    assert (me["name"], me["roles"], me["kind"]) == (f"ci:{host}:acme/vision@refs/heads/main", ["publisher"], "service")
    assert job.get(f"{API}/tokens").status_code == 403
    rows = admin.get(f"{API}/audit", params={"action": "create_pipeline_token"}).json()["items"]
    actor = f"ci:{host}:acme/vision@refs/heads/main ({given.json()['id']})"
    assert [row["actor"] for row in rows if row["status"] == 201] == [actor]
    assert admin.delete(f"{API}/trusted-pipelines/release").status_code == 204
    assert job.get(f"{API}/whoami").status_code == 401
    assert admin.get(f"{API}/trusted-pipelines/release").json()["code"] == "access.pipeline_unknown"


def test_tries_of_one_address_are_limited_before_a_body_is_parsed(house: ApiHouse) -> None:
    book, client = house.parts.pipelines, house.client()
    for _ in range(TRIES_A_MINUTE):
        book.take_turn("testclient")
    with pytest.raises(TooManyRequestsError):
        book.take_turn("testclient")
    answer = client.post(f"{API}/pipeline-tokens", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (429, "access.too_many_requests")
    assert int(answer.headers["retry-after"]) >= 1
    house.clock.turn(minutes=1)
    assert (
        client.post(f"{API}/pipeline-tokens", content=b"{", headers={"content-type": "application/json"}).status_code
        == 422
    )
    assert house.parts.pipelines.audience == "http://127.0.0.1:8080"
    assert timedelta(minutes=15) == TOKEN_LIFE


def test_the_books_of_two_jobs_at_once_give_one_token(db: Database) -> None:
    desk = Desk(db)
    token = desk.token()
    results: list[str] = []

    def exchange() -> None:
        try:
            results.append(desk.book.exchange(token, "")[0].view.id)
        except UsedIdTokenError:
            results.append("used")

    threads = [threading.Thread(target=exchange) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert results.count("used") == 5
