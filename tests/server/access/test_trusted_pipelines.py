"""Jobs of CI sign in by their ID tokens, and nothing else does: what is trusted, and a table of attacks.

The issuer is a stand-in (`local_issuer.py`): the claims have the form that GitHub and GitLab document, and no real CI was asked.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Collection
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.errors import (
    BadGrantError,
    BadIdTokenError,
    BadPipelineError,
    BadTokenError,
    ExpiredTokenError,
    PipelineExistsError,
    UnknownPersonError,
    UnknownPipelineError,
    UntrustedPipelineError,
    UsedIdTokenError,
)
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.grants.schemas import RolesIn
from edgefleet_server.access.model import Grant, PersonKind, Role
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
from edgefleet_server.access.trusted_pipelines.service import PipelineBook
from edgefleet_server.db.database import Database
from tests.server.access.local_issuer import AUDIENCE, LocalIssuer, another_key, rsa_jwk, rsa_key, rule
from tests.support.servers import HandClock

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
