"""Grants: one alone has to give all that a request touches; what a person was granted limits their tokens; groups of scopes stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.errors import BadGrantError, BadTokenRequestError, OwnAccountError, UnknownGrantError
from edgefleet_server.access.grants.grant_scope import Crowd, Scope, Touched
from edgefleet_server.access.grants.rules import MAX_GRANTS, check_grant, is_within, loaded, stored, with_grant
from edgefleet_server.access.model import Grant, PersonKind, Principal, Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.dashboard.core.login import COOKIE
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.errors import GroupInUseError
from edgefleet_server.fleet.selectors.device_selector import crowd_of
from tests.house.soak import SOAKS
from tests.server.access.policy_walk import GROUP as LINE
from tests.server.access.policy_walk import IN, OUT, SELECTOR, SITE, Walk, main
from tests.support.servers import HandClock

MODELS = ("a", "b")
GROUPS = ("x", "y")
SITES = ("s", "t")
WORLD = [
    (inside, site) for inside in (frozenset(), frozenset("x"), frozenset("y"), frozenset("xy")) for site in ("", *SITES)
]
"""Every device that there could be: in which groups, and at which site."""
FLEET, A_X, B_Y = (Scope(), Scope(frozenset("a"), frozenset("x")), Scope(frozenset("b"), frozenset("y")))


def some(names: Iterable[str], least: int = 0) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(sorted(names)), min_size=least)


scopes = st.builds(Scope, some(MODELS), some(GROUPS), some(SITES))
acting = st.sampled_from([Role.OPERATOR, Role.APPROVER])
grants = st.builds(Grant, acting, scopes)
named = st.lists(some(GROUPS, 1), max_size=2).map(tuple)
crowds = st.builds(Crowd, named, st.lists(some(SITES, 1), max_size=2).map(tuple))
touched = st.builds(Touched, st.none() | some(MODELS, 1), crowds)


def pairs_of(scope: Scope) -> set[Any]:
    return {
        (model, device)
        for model, device in product(MODELS, WORLD)
        if (not scope.models or model in scope.models)
        and (not scope.groups or device[0] & scope.groups)
        and (not scope.sites or device[1] in scope.sites)
    }


def pairs_touched(what: Touched) -> set[Any]:
    assert what.devices is not None
    return {
        (model, device)
        for model, device in product(what.models or MODELS, WORLD)
        if all(device[0] & one for one in what.devices.groups) and all(device[1] in one for one in what.devices.sites)
    }


def caller(*held: Grant, limits: tuple[Grant, ...] | None = None) -> Principal:
    return Principal("t", "ann", frozenset(), "p", scoped=held, limits=limits)


@given(st.lists(grants, max_size=4), st.none() | st.lists(grants, max_size=3), touched, acting)
def test_a_request_is_allowed_when_one_grant_alone_has_all_of_it(
    held: list[Grant], limits: list[Grant] | None, what: Touched, role: Role
) -> None:
    may = caller(*held, limits=None if limits is None else tuple(limits)).may(role, what)
    single = [caller(one).may(role, what) for one in held]
    within = limits is None or any(caller(one).may(role, what) for one in limits)
    assert may == (any(single) and within)
    if may:
        of_role = [pairs_of(one.scope) for one in held if one.role is role]
        assert any(pairs_touched(what) <= pairs for pairs in of_role), "whatever device there is"


@given(scopes, touched)
def test_a_scope_contains_what_is_inside_whatever_devices_there_are(scope: Scope, what: Touched) -> None:
    if scope.contains(what):
        assert pairs_touched(what) <= pairs_of(scope)
    if not scope.has_devices:
        assert scope.contains(what) == (not scope.models or (what.models is not None and what.models <= scope.models))


@given(grants, st.lists(grants, max_size=3), touched)
def test_a_grant_within_others_gives_nothing_that_they_do_not(own: Grant, limits: list[Grant], what: Touched) -> None:
    if is_within(own, limits) and caller(own).may(own.role, what):
        assert caller(*limits).may(own.role, what)


def test_two_grants_give_nothing_that_neither_gives() -> None:
    """The lesson of CVE-2026-33552: rights on A in X and on B in Y are none on A in Y."""
    both = caller(Grant(Role.OPERATOR, A_X), Grant(Role.OPERATOR, B_Y))
    a, b = frozenset("a"), frozenset("b")
    assert both.may(Role.OPERATOR, Touched(a, crowd_of("group=x,env=prod")))
    assert both.may(Role.OPERATOR, Touched(b, crowd_of("group in (y)")))
    for models, selector in (
        (a, "group=y"),
        (b, "group=x"),
        (a | b, "group=x"),
        (a, "group in (x,y)"),
        (None, "group=x"),
    ):
        assert not both.may(Role.OPERATOR, Touched(models, crowd_of(selector))), selector
    assert not both.may(Role.APPROVER, Touched(a, crowd_of("group=x")))
    assert not both.may(Role.OPERATOR)
    assert both.may(Role.VIEWER), "whoever is signed in reads the whole fleet"
    assert not caller(limits=()).may(Role.VIEWER)


@pytest.mark.parametrize(
    "selector", ["", "group", "group!=y", "group notin (y)", "!group", "env=x", "group=x,group=y", "site=z", "id=d-1"]
)
def test_a_selector_that_does_not_keep_to_the_group_is_outside(selector: str) -> None:
    """`group=x,group=y` finds what is in both, and a scope of z has neither: who is in x and y need not be in z."""
    scope = Scope(groups=frozenset("z"))
    assert not scope.contains(Touched(frozenset("a"), crowd_of(selector)))
    assert scope.contains(Touched(frozenset("a"), crowd_of(f"{selector},group=z" if selector else "group=z")))


@given(st.lists(grants, max_size=5))
def test_grants_come_back_as_they_were_stored(held: list[Grant]) -> None:
    assert loaded(stored(held)) == tuple(held)


@pytest.mark.parametrize("role", list(Role))
def test_only_acting_roles_have_a_scope(role: Role) -> None:
    check_grant(Grant(role))
    for scope, allowed in (
        (Scope(models=frozenset("a")), {Role.OPERATOR, Role.APPROVER, Role.PUBLISHER}),
        (Scope(groups=frozenset("x")), {Role.OPERATOR, Role.APPROVER}),
        (Scope(sites=frozenset("s")), {Role.OPERATOR, Role.APPROVER}),
    ):
        if role in allowed:
            check_grant(Grant(role, scope))
        else:
            with pytest.raises(BadGrantError, match=f"the role {role}"):
                check_grant(Grant(role, scope))
    for bad in (Scope(groups=frozenset({"a,b"})), Scope(sites=frozenset({""})), Scope(sites=frozenset({"a)"}))):
        with pytest.raises(BadGrantError, match="cannot be the name"):
            check_grant(Grant(Role.OPERATOR, bad))
    many = [Grant(Role.OPERATOR, Scope(sites=frozenset({str(n)}))) for n in range(MAX_GRANTS)]
    with pytest.raises(BadGrantError, match="more than 50"):
        with_grant(many, Grant(Role.VIEWER))


# ---- people and tokens


def test_what_a_person_was_granted_limits_their_tokens_at_once(db: Database) -> None:
    access = AccessService(db, HandClock())
    a, b = (Grant(Role.OPERATOR, Scope(models=frozenset(one))) for one in "ab")
    before = access.create_token("ann", [Role.OPERATOR], by="x").token
    assert access.people.person("ann").grants is None, "as before the upgrade: each token decides"
    assert access.people.grant("ann", Grant(Role.APPROVER)).grants == (Grant(Role.OPERATOR), Grant(Role.APPROVER))
    assert access.authenticate(before).may(Role.OPERATOR), "to grant takes nothing away"
    cookie = access.logins.open_session(access.authenticate(before)).cookie
    boss = access.authenticate(access.create_token("boss", [Role.ADMIN], by="x").token)
    access.people.grant("ann", a)
    access.people.revoke_grant("ann", Grant(Role.OPERATOR), boss)
    for found in (access.authenticate(before), access.logins.session_of(cookie).principal):
        assert not found.may(Role.OPERATOR)
        assert found.may(Role.OPERATOR, Touched(frozenset("a"), None))
        assert not found.may(Role.APPROVER), "the token was not made for it"
        assert found.said() == "operator, within what ann was granted: approver, operator (model a)"
    for roles, scoped in (([Role.OPERATOR], []), ([], [b]), ([Role.ADMIN], [a])):
        with pytest.raises(BadTokenRequestError, match="ann was granted"):
            access.create_token("ann", roles, by="x", scoped=scoped)
    made = access.create_token("ann", [Role.VIEWER], by="x", scoped=[a])
    assert (made.view.roles, made.view.scoped) == ((Role.VIEWER,), (a,))
    assert access.authenticate(made.token).may(Role.OPERATOR, Touched(frozenset("a"), None))
    with pytest.raises(UnknownGrantError, match="ann has no grant operator \\(model b\\)"):
        access.people.revoke_grant("ann", b, boss)
    for held in (a, Grant(Role.APPROVER)):
        access.people.revoke_grant("ann", held, boss)
    assert not access.authenticate(before).may(Role.VIEWER), "nothing is left, not even to read"


def test_two_admins_who_change_grants_at_once_lose_neither_change(db: Database) -> None:
    people = AccessService(db, HandClock()).people
    people.create("ann", PersonKind.PERSON, by="x")
    a, b = (Grant(Role.OPERATOR, Scope(models=frozenset(one))) for one in "ab")
    people.grant("ann", a)
    with ThreadPoolExecutor(1) as pool:
        with db.session():
            people.grant("ann", b)
            other = pool.submit(people.revoke_grant, "ann", a, caller())
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
        other.result(timeout=60)
    assert people.person("ann").grants == (b,)


def test_nobody_takes_the_role_admin_from_themselves(db: Database) -> None:
    access = AccessService(db, HandClock())
    boss = access.authenticate(access.create_token("boss", [Role.ADMIN], by="x").token)
    access.people.grant("boss", Grant(Role.VIEWER))
    with pytest.raises(OwnAccountError):
        access.people.revoke_grant("boss", Grant(Role.ADMIN), boss)
    access.create_token("eve", [Role.VIEWER], by="x")
    with pytest.raises(UnknownGrantError, match="nothing is said of them"):
        access.people.revoke_grant("eve", Grant(Role.VIEWER), boss)
    with pytest.raises(BadGrantError, match="there is no group"):
        access.people.grant("boss", Grant(Role.OPERATOR, Scope(groups=frozenset("x"))))


# ---- through the app


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """A fleet of two devices, with two models and rollouts of both; no test changes what another one needs."""
    made = Walk(Path(tmp_path_factory.mktemp("walk")))
    assert made.rollouts
    yield made
    made.close()


def as_(walk: Walk, role: Role, scope: Scope) -> TestClient:
    return walk.client(Grant(role, scope))


IN_GROUP = Scope(frozenset({IN}), frozenset({LINE[IN]}))


def test_a_sample_of_the_walk_of_every_route_role_and_scope() -> None:
    found = main(SOAKS["policy-walk"].in_ci, 24)
    assert found["ok"], found["wrong"]
    assert found["cells"] > 6_000
    assert min(found["allowed"], found["refused"]) > 100


def test_a_refusal_says_what_is_touched_and_what_the_caller_has(walk: Walk) -> None:
    client = as_(walk, Role.OPERATOR, IN_GROUP)
    told = client.post(f"releases/{IN}@1.0.0:deploy", json={"selector": f"site={SITE[IN]}"}).json()
    assert told["detail"].startswith(
        f"this needs the role operator for model {IN} on devices of site {SITE[IN]}, by one grant alone"
    )
    assert told["detail"].endswith(f"has: operator (model {IN}, group {LINE[IN]})")
    assert "group=NAME" in told["next"]
    told = client.post("/devices:label", json={"selector": SELECTOR[IN], "labels": {"line": "b"}}).json()
    assert "for the whole fleet, by one grant alone" in told["detail"], "labels decide who is in a scope"


def test_a_device_is_named_by_its_id_only_inside(walk: Walk) -> None:
    client = as_(walk, Role.OPERATOR, IN_GROUP)
    for where, status in ((IN, 200), (OUT, 403)):
        body = {"device": walk.devices[where], "dry_run": True}
        assert client.post(f"releases/{IN}@1.0.0:deploy", json=body).status_code == status
    assert client.post(f"releases/{IN}@1.0.0:deploy", json={"device": "nobody"}).status_code == 404


def test_a_rollout_does_not_supersede_one_outside(walk: Walk) -> None:
    """Else who has one line could end the rollout of the whole fleet."""
    client = as_(walk, Role.OPERATOR, IN_GROUP)
    for where in (IN, OUT):
        walk.operators.parts.rollout.abort(walk.rollouts[IN, where], "test", "", rollback=False)
    wide = walk.operators.parts.rollout.create(
        {"release": f"{IN}@1.0.0", "selector": "", "strategy": "rolling"}, "test"
    )
    spec = {
        "release": f"{IN}@1.0.0",
        "selector": f"group={LINE[IN]}",
        "strategy": "rolling",
        "supersede": "cancel-older",
    }
    refused = client.post("rollouts", json=spec)
    assert (refused.status_code, refused.json()["code"]) == (403, "access.forbidden"), refused.text
    assert client.get(f"rollouts/{wide}").json()["state"] not in ("superseded", "cancelled")
    walk.operators.parts.rollout.abort(str(wide), "test", "", rollback=False)
    made = client.post("rollouts", json=spec)
    assert made.status_code == 201, made.text
    assert client.post(f"rollouts/{made.json()['id']}:abort", json={}).status_code == 200


def test_a_group_that_a_grant_names_stays_as_it_is(walk: Walk) -> None:
    parts = walk.operators.parts
    parts.access.people.create("bob", PersonKind.PERSON, by="x")
    parts.fleet.groups.create("dock", "line=dock", "x")
    parts.access.people.grant("bob", Grant(Role.OPERATOR, Scope(groups=frozenset({"dock"}))))
    with pytest.raises(GroupInUseError, match="a grant of bob names it"):
        parts.fleet.groups.change("dock", "line=line-a")
    with pytest.raises(GroupInUseError):
        parts.fleet.groups.delete("dock")
    parts.fleet.groups.create("sick", "status=offline", "x")
    for name, why in (("sick", "asks for status"), ("nowhere", "there is no group")):
        with pytest.raises(BadGrantError, match=why):
            parts.access.people.grant("bob", Grant(Role.OPERATOR, Scope(groups=frozenset({name}))))


def test_pages_offer_what_the_scope_has_and_refuse_the_rest(walk: Walk) -> None:
    client = as_(walk, Role.OPERATOR, Scope(groups=frozenset({LINE[IN]})))
    token = client.headers["authorization"].removeprefix("Bearer ")
    made = walk.operators.parts.access.logins.open_session(walk.operators.parts.access.authenticate(token))
    browser = TestClient(walk.operators.app, base_url="http://server.test", cookies={COOKIE: made.cookie})
    inside, outside = (browser.get(f"/devices/{walk.devices[where]}").text for where in (IN, OUT))
    for page, has in ((inside, True), (outside, False)):
        assert ('data-operation="revoke_device"' in page) is has
    assert "your role operator is for another part of the fleet" in outside
    assert f"operator (group {LINE[IN]})" in inside
    refused = browser.get(f"/devices/{walk.devices[OUT]}/tasks/zzz")
    assert (refused.status_code, browser.get(f"/devices/{walk.devices[IN]}/tasks/zzz").status_code) == (403, 404)


def test_whose_grants_were_all_revoked_reads_why_instead_of_going_round(walk: Walk) -> None:
    access = walk.operators.parts.access
    principal = access.authenticate(access.create_token("fay", [Role.VIEWER], by="test").token)
    browser = TestClient(walk.operators.app, base_url="http://server.test")
    browser.cookies.set(COOKIE, access.logins.open_session(principal).cookie)
    assert ">Continue<" in browser.get("/login").text
    access.people.grant("fay", Grant(Role.VIEWER))
    access.people.revoke_grant("fay", Grant(Role.VIEWER), caller())
    shown = browser.get("/devices")
    assert "whose grants were all revoked" in shown.text
    assert ">Continue<" not in shown.text
    assert shown.url.path == "/login"


def test_grants_over_the_api(walk: Walk) -> None:
    boss = as_(walk, Role.ADMIN, FLEET)
    boss.post("people", json={"name": "carl"})
    grant = {"role": "operator", "models": [IN], "groups": [LINE[IN]]}
    dry = boss.post("people/carl:grant", json=grant, params={"dry_run": "true"})
    assert (dry.status_code, boss.get("people/carl").json()["grants"]) == (200, None)
    given_ = boss.post("people/carl:grant", json=grant).json()["grants"]
    assert given_ == [{**grant, "sites": []}]
    assert boss.post("people/carl:grant", json={"role": "admin", "sites": ["s"]}).status_code == 422
    beyond = boss.post("tokens", json={"name": "carl", "roles": ["operator"]})
    assert (beyond.status_code, beyond.json()["code"]) == (422, "access.bad_token_request")
    assert "edgectl person grant" in beyond.json()["next"]
    made = boss.post("tokens", json={"name": "carl", "scoped": [grant]}).json()
    assert (made["roles"], made["scoped"]) == ([], given_)
    carl = TestClient(
        walk.operators.app, base_url="http://server.test/api/v1", headers={"authorization": f"Bearer {made['token']}"}
    )
    told = carl.get("whoami").json()
    assert (told["roles"], told["scoped"], told["limits"]) == ([], given_, given_)
    assert boss.post("people/carl:revoke-grant", json=grant).json()["grants"] == []
    assert carl.get("whoami").status_code == 403
    assert boss.post("people/carl:revoke-grant", json=grant).status_code == 404
    assert boss.post("tokens", json={"name": "carl"}).status_code == 422
