"""Sign-in by an identity provider, through a real issuer (`oidc-provider`): who gets in, as whom, and what an attacker gets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from sqlmodel import select

from edgefleet_server.access.errors import (
    BadIdentityError,
    BadTokenError,
    IdentityRefusedError,
    IssuerUnavailableError,
    LoginRefusedError,
    UnknownIdentityError,
)
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.identities import store
from edgefleet_server.access.identities.model import Identity
from edgefleet_server.access.identities.service import MAX_EXCHANGES
from edgefleet_server.access.model import Grant, PersonKind, Principal, Role
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.outbound.http_post import Fetched, PostError
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_server.web.attempt_limits import TooManyLoginsError
from tests.server.access.known_identity import rollout_row
from tests.support.real_issuer.issuer_browser import HOME, Browser, found
from tests.support.real_issuer.issuer_process import CLIENT, SECRET, RealIssuer, real_issuer
from tests.support.receivers import Receiver, receiving
from tests.support.servers import ApiHouse, HandClock

API: Final = "/api/v1"
CORP, OTHER = f"{HOME}/login/with/corp/callback", f"{HOME}/login/with/other/callback"
ANN: Final = {"preferred_username": "ann", "groups": ["line-ops", "lunch"]}


@pytest.fixture(scope="module")
def told() -> Iterator[Receiver]:
    """What the issuer sends when somebody signs out there."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def issuer(told: Receiver) -> Iterator[RealIssuer]:
    """The issuer of all tests."""
    with real_issuer([CORP, OTHER], told.url) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[RealIssuer]:
    """Another issuer, with the same client and people of the same names."""
    with real_issuer([CORP, OTHER]) as running:
        yield running


@pytest.fixture(scope="module")
def house(issuer: RealIssuer, elsewhere: RealIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHouse]:
    """A server that trusts both issuers: at `corp` people wait for an admin, at `other` they are added."""
    folder = tmp_path_factory.mktemp("identities")
    secret = folder / "corp.secret"
    secret.write_text(SECRET + "\n")
    roles = [
        {"value": "line-ops", "role": "operator", "groups": ["line"]},
        {"value": "ml", "role": "publisher", "models": ["digits"]},
        {"value": "boss", "role": "admin"},
        {"value": "look", "role": "viewer"},
    ]
    usual = {"client_id": CLIENT, "client_secret_file": str(secret), "roles": roles}
    providers = [
        {**usual, "name": "corp", "label": "Example Corp", "issuer": issuer.url},
        {**usual, "name": "other", "issuer": elsewhere.url, "new_people": "add", "session_s": 600},
    ]
    made = ApiHouse(
        folder / "server",
        clock=HandClock(datetime.now(UTC)),
        dashboard_url=HOME,
        webhook_networks=["127.0.0.0/8"],
        identity_providers=providers,
    )
    made.client(Role.ADMIN).post(f"{API}/groups", json={"name": "line", "selector": "site=line"}).raise_for_status()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def people(issuer: RealIssuer, elsewhere: RealIssuer, house: ApiHouse) -> None:
    """Begin each test with ann at both, and with the time of the issuers."""
    house.clock.time = datetime.now(UTC)
    house.parts.identities._guesses._clients.clear()
    issuer.know({"u-1": ANN})
    elsewhere.know({"u-1": ANN})


def identity(house: ApiHouse, issuer: RealIssuer, subject: str = "u-1") -> Identity:
    """Return an identity by what is known of it."""
    items = house.parts.identities.identities(PageRequest()).items
    return next(one for one in items if (one.issuer, one.subject) == (issuer.url, subject))


def admitted(house: ApiHouse, issuer: RealIssuer, person: str, subject: str) -> Browser:
    """Let a new identity with the role operator at the line come in as a person."""
    issuer.know({subject: ANN})
    browser = Browser(house)
    assert browser.sign_in(issuer, subject).status_code == 403
    house.parts.identities.link(identity(house, issuer, subject).id, person, "boss")
    assert browser.sign_in(issuer, subject).status_code == 200
    return browser


def test_a_person_waits_is_linked_and_signs_in_with_the_grants_of_the_groups(
    house: ApiHouse, issuer: RealIssuer
) -> None:
    login = Browser(house).pages.get("/login").text
    assert "Sign in with Example Corp" in login
    assert "Sign in with other" in login
    browser = Browser(house)
    waits = browser.sign_in(issuer, to="/devices?label=a")
    assert waits.status_code == 403
    seen = identity(house, issuer)
    assert (seen.person, seen.name, seen.provider) == ("", "ann", "corp")
    assert seen.id in waits.text
    assert browser.me(house) is None
    admin = house.client(Role.ADMIN)
    linked = admin.post(f"{API}/identities/{seen.id}:link", json={})
    assert (linked.status_code, linked.json()["person"]) == (200, "ann (corp)")
    done = browser.sign_in(issuer, to="/devices?label=a")
    assert (done.status_code, found(done.text)) == (200, "/devices?label=a")
    cookie = next(one for one in done.headers.get_list("set-cookie") if one.startswith("edgefleet_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    me = browser.me(house)
    assert me is not None
    assert (me.name, me.kind, me.roles) == ("ann (corp)", PersonKind.PERSON, frozenset())
    assert me.scoped == (Grant(Role.OPERATOR, Scope(groups=frozenset({"line"}))),)
    actions = [row["action"] for row in admin.get(f"{API}/audit").json()["items"]]
    assert {"login_by_identity_provider", "identity_waits", "create_person", "link_identity"} <= set(actions)
    ending = house.parts.access.ending(house.clock.now(), house.clock.now().replace(year=2100))
    assert me.id not in [one.id for one in ending]


def test_groups_are_taken_again_at_each_sign_in_in_all_browsers(house: ApiHouse, issuer: RealIssuer) -> None:
    first = admitted(house, issuer, "", "u-groups")
    issuer.know({"u-groups": {**ANN, "groups": ["ml", "look", "line-ops"]}})
    second = Browser(house)
    assert second.sign_in(issuer, "u-groups").status_code == 200
    for browser in (first, second):
        me = browser.me(house)
        assert me is not None
        assert (set(me.roles), {one.role for one in me.scoped}) == ({Role.VIEWER}, {Role.PUBLISHER, Role.OPERATOR})
    issuer.know({"u-groups": {**ANN, "groups": "lunch"}})
    refused = Browser(house).sign_in(issuer, "u-groups")
    assert refused.status_code == 403
    assert "none of your groups there has a role here" in refused.text
    assert (first.me(house), second.me(house)) == (None, None)


def test_a_session_ends_with_the_time_of_its_provider(house: ApiHouse, elsewhere: RealIssuer) -> None:
    elsewhere.know({"u-short": ANN})
    browser = Browser(house)
    assert browser.sign_in(elsewhere, "u-short", "other").status_code == 200
    me = browser.me(house)
    assert me is not None
    assert me.name.startswith("ann (other")
    house.clock.turn(seconds=601)
    assert browser.me(house) is None


def test_an_identity_linked_to_a_person_is_that_person_and_no_second_one(house: ApiHouse, issuer: RealIssuer) -> None:
    local = house.parts.access.create_token("bea", [Role.OPERATOR], by="boss").view
    browser = admitted(house, issuer, "bea", "u-bea")
    me, bea = browser.me(house), house.parts.access.people.person("bea")
    assert me is not None
    assert (me.person, me.name) == (bea.id, "bea")
    assert local.person == "bea"


def test_an_identity_that_goes_to_another_person_takes_its_makings_along(house: ApiHouse, issuer: RealIssuer) -> None:
    house.parts.access.create_token("cid", [Role.APPROVER], by="boss")
    browser = admitted(house, issuer, "", "u-cid")
    own, cid = identity(house, issuer, "u-cid"), house.parts.access.people.person("cid")
    with house.parts.db.session() as session:
        for name, makers, by in (
            ("r-made", [], own.person),
            ("r-moved", ["p-x", own.person_id], "x"),
            ("r-other", ["p-x"], "x"),
        ):
            session.add(rollout_row(name, makers, by))
    house.parts.identities.unlink(own.id)
    assert browser.me(house) is None
    assert browser.sign_in(issuer, "u-cid").status_code == 403
    house.parts.identities.link(own.id, "cid", "boss")
    with house.parts.db.read() as session:
        made = {row.id for row in session.exec(select(Rollout)) if cid.id in row.makers}
    assert made == {"r-made", "r-moved"}


def test_a_disabled_person_is_out_at_once_and_stays_out(house: ApiHouse, issuer: RealIssuer) -> None:
    browser = admitted(house, issuer, "", "u-gone")
    me = browser.me(house)
    assert me is not None
    house.parts.access.people.disable(me.person, Principal("t", "boss", frozenset({Role.ADMIN}), "p-boss"))
    assert browser.me(house) is None
    assert "you are disabled at this server" in browser.sign_in(issuer, "u-gone").text
    assert browser.me(house) is None
    with pytest.raises(BadIdentityError):
        house.parts.identities.link(identity(house, issuer, "u-gone").id, me.name, "boss")


def test_own_tokens_end_with_the_roles_they_were_made_with(house: ApiHouse, issuer: RealIssuer) -> None:
    browser = admitted(house, issuer, "", "u-own")
    me = browser.me(house)
    assert me is not None
    made = house.parts.access.own_tokens.create(me, "laptop", (), None)
    assert me.expires_at is not None
    assert made.view.expires_at == me.expires_at
    assert house.parts.access.authenticate(made.token).scoped == me.scoped
    assert made.view.id not in [
        one.id for one in house.parts.access.ending(house.clock.now(), me.expires_at.replace(year=2100))
    ]
    assert browser.sign_in(issuer, "u-own").status_code == 200  # nothing is lost
    house.parts.access.authenticate(made.token)
    issuer.know({"u-own": {**ANN, "groups": ["look"]}})
    other = Browser(house)
    assert other.sign_in(issuer, "u-own").status_code == 200
    with pytest.raises(BadTokenError):
        house.parts.access.authenticate(made.token)
    assert browser.me(house) is None
    now = other.me(house)
    assert now is not None
    assert (set(now.roles), now.scoped) == ({Role.VIEWER}, ())
    rows = house.client(Role.ADMIN).get(f"{API}/audit").json()["items"]
    mine = [row["action"] for row in rows if row["object"] == f"identity {identity(house, issuer, 'u-own').id}"]
    assert mine.count("roles_lost_at_identity_provider") == 1


def test_who_signs_out_at_the_issuer_is_signed_out_here(house: ApiHouse, issuer: RealIssuer, told: Receiver) -> None:
    admitted(house, issuer, "", "u-out")
    browser = Browser(house)
    with httpx.Client() as there:
        assert browser.arrive(issuer.answer_for(browser.leave(), "u-out", there)).status_code == 200
        seen = len(told.got)
        issuer.sign_out(there)
    told.wait(lambda got: len(got) > seen, 10)
    token = dict(parse_qsl(told.got[-1].body.decode()))["logout_token"]
    strange = Browser(house).pages
    for wrong in ("", "no.token.atall", token[:-8] + "AAAAAAAA"):
        assert strange.post("/login/with/corp/logout", data={"logout_token": wrong}).status_code == 400
    assert strange.post("/login/with/other/logout", data={"logout_token": token}).status_code == 400
    assert strange.post("/login/with/nobody/logout", data={"logout_token": token}).status_code == 404
    assert browser.me(house) is not None
    done = strange.post("/login/with/corp/logout", data={"logout_token": token})
    assert (done.status_code, done.headers["cache-control"]) == (200, "no-store")
    assert browser.me(house) is None
    assert strange.post("/login/with/corp/logout", data={"logout_token": token}).status_code == 200
    rows = house.client(Role.ADMIN).get(f"{API}/audit").json()["items"]
    assert [row["action"] for row in rows].count("logout_by_identity_provider") == 1  # brought again it ended nothing


def test_who_waits_ends_nothing_of_others(house: ApiHouse, issuer: RealIssuer, told: Receiver) -> None:
    """An identity that waits has no token yet: to end what rests on it must end nothing, and not all tokens that admins made."""
    issuer.know({"u-waits": ANN})
    browser, bystander = Browser(house), house.parts.access.create_token("eve", [Role.VIEWER], by="boss")
    eve = house.parts.access.logins.open_session(house.parts.access.authenticate(bystander.token))
    with httpx.Client() as there:
        assert browser.arrive(issuer.answer_for(browser.leave(), "u-waits", there)).status_code == 403
        seen = len(told.got)
        issuer.sign_out(there)
    told.wait(lambda got: len(got) > seen, 10)
    token = dict(parse_qsl(told.got[-1].body.decode()))["logout_token"]
    assert browser.pages.post("/login/with/corp/logout", data={"logout_token": token}).status_code == 200
    issuer.know({"u-waits": {**ANN, "groups": []}})
    assert browser.sign_in(issuer, "u-waits").status_code == 403
    own = identity(house, issuer, "u-waits").id
    house.parts.identities.unlink(own)
    house.parts.identities.link(own, "", "boss")
    house.parts.identities.link(own, "eve", "boss")
    house.parts.access.authenticate(bystander.token)
    house.parts.access.logins.session_of(eve.cookie)


def test_nobody_is_known_by_name_or_address(house: ApiHouse, issuer: RealIssuer, elsewhere: RealIssuer) -> None:
    """Somebody at another issuer, or of another subject, calls himself as the admin does."""
    boss = {"preferred_username": "root", "email": "root@example.com", "email_verified": True}
    issuer.know({"b-1": {**boss, "groups": ["boss"]}})
    browser = Browser(house)
    assert browser.sign_in(issuer, "b-1").status_code == 403
    house.parts.identities.link(identity(house, issuer, "b-1").id, "", "boss")
    assert browser.sign_in(issuer, "b-1").status_code == 200
    real = browser.me(house)
    assert real is not None
    elsewhere.know({"b-1": {**boss, "groups": ["look"]}})  # the same subject, name and address
    liar = Browser(house)
    assert liar.sign_in(elsewhere, "b-1", "other").status_code == 200
    me = liar.me(house)
    assert me is not None
    assert (me.person != real.person, me.name, set(me.roles)) == (True, "root (other)", {Role.VIEWER})
    elsewhere.know({"b-2": {**boss, "preferred_username": "root (corp)", "groups": ["look"]}})
    third = Browser(house)
    assert third.sign_in(elsewhere, "b-2", "other").status_code == 200
    again = third.me(house)
    assert again is not None
    assert again.person not in {real.person, me.person}


def test_an_answer_works_once_in_the_browser_that_asked(house: ApiHouse, elsewhere: RealIssuer) -> None:
    """Replays, a victim's browser that an attacker's answer is put into, and a stolen code."""
    browser, thief = Browser(house), Browser(house)
    answer = elsewhere.answer_for(browser.leave("other"), "u-1")
    kept = dict(browser.pages.cookies)
    thief.leave("other")
    assert thief.arrive(answer).status_code == 401  # state of another browser
    own = dict(parse_qsl(urlsplit(elsewhere.answer_for(thief.leave("other"), "u-1")).query))
    stolen = dict(parse_qsl(urlsplit(answer).query))
    mixed = f"{OTHER}?{urlencode({**own, 'code': stolen['code']})}"  # the stolen code with another verifier
    assert thief.arrive(mixed).status_code == 401
    assert thief.me(house) is None
    fresh = elsewhere.answer_for(browser.leave("other"), "u-1")
    kept = dict(browser.pages.cookies)
    assert browser.arrive(fresh).status_code == 200
    browser.pages.cookies.update(kept)
    assert browser.arrive(fresh).status_code == 401
    assert Browser(house).arrive(fresh).status_code == 401


@pytest.mark.parametrize("change", [
    {"state": "x" * 43}, {"state": ""}, {"iss": "https://evil.example"}, {"iss": ""}, {"code": ""}, {"error": "access_denied"},
])  # fmt: skip
def test_a_changed_answer_is_refused(house: ApiHouse, elsewhere: RealIssuer, change: dict[str, str]) -> None:
    browser = Browser(house)
    fields = dict(parse_qsl(urlsplit(elsewhere.answer_for(browser.leave("other"), "u-1")).query))
    changed = {name: value for name, value in {**fields, **change}.items() if value}
    assert browser.arrive(f"{OTHER}?{urlencode(changed)}").status_code in (401, 403)
    assert browser.me(house) is None


def test_an_answer_of_one_issuer_is_not_taken_for_another(
    house: ApiHouse, issuer: RealIssuer, elsewhere: RealIssuer
) -> None:
    """Mix-up: the victim began at `other`, and the attacker leads the answer of `corp` there, or the other way round."""
    browser = Browser(house)
    answer = issuer.answer_for(browser.leave("corp"), "u-1")
    assert browser.arrive(answer.replace(CORP, OTHER)).status_code == 401
    began = dict(parse_qsl(urlsplit(browser.leave("other")).query))
    fields = dict(parse_qsl(urlsplit(answer).query))
    assert browser.arrive(f"{OTHER}?{urlencode({**fields, 'state': began['state']})}").status_code == 403
    assert browser.me(house) is None


def test_the_issuer_leads_to_our_address_only_and_so_do_we(house: ApiHouse, elsewhere: RealIssuer) -> None:
    browser = Browser(house)
    leaving = urlsplit(browser.leave("other", "https://evil.example/"))
    asked = dict(parse_qsl(leaving.query))
    assert asked["redirect_uri"] == OTHER
    assert (asked["code_challenge_method"], len(asked["nonce"]), len(asked["state"])) == ("S256", 43, 43)
    with httpx.Client() as client:
        foreign = urlencode({**asked, "redirect_uri": "https://evil.example/"})
        assert client.get(f"{elsewhere.url}{leaving.path}?{foreign}").status_code == 400
    elsewhere.know({"u-to": ANN})
    for to in ("https://evil.example/", "//evil.example", "/\\evil.example", "/login/with/corp"):
        assert found(browser.sign_in(elsewhere, "u-to", "other", to).text) == "/"


def test_another_site_cannot_begin_a_sign_in(house: ApiHouse) -> None:
    browser = Browser(house)
    answer = browser.pages.post("/login/with/corp", data={}, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert browser.pages.post("/login/with/nobody", data={}).status_code == 404
    assert browser.pages.get("/login/with/corp").status_code == 405


def test_sign_ins_are_bounded(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    book = house.parts.identities
    for _ in range(30):
        book.begin("198.51.100.7", "corp", "/")
    with pytest.raises(TooManyLoginsError):
        book.begin("198.51.100.7", "corp", "/")
    monkeypatch.setattr(store, "MAX_SIGN_INS", 3)
    last = [book.begin("198.51.100.8", "corp", "/") for _ in range(5)]
    with house.parts.db.read() as session:
        assert len(session.connection().exec_driver_sql("SELECT 1 FROM access_sign_ins").all()) == 3
    house.clock.turn(seconds=601)
    with pytest.raises(LoginRefusedError):
        book.finish("corp", last[-1].cookie, "code=x")
    monkeypatch.setattr(store, "MAX_WAITING", 0)
    with pytest.raises(IdentityRefusedError):
        book._let_in(book._provider("corp"), {**ANN, "sub": "u-flood"})
    assert "u-flood" not in {one.subject for one in book.waiting(1000)}
    house.clock.turn(seconds=31 * 86_400)  # those that did not come back give way
    monkeypatch.setattr(store, "MAX_WAITING", 1)
    with pytest.raises(IdentityRefusedError):
        book._let_in(book._provider("corp"), {**ANN, "sub": "u-flood"})
    assert [one.subject for one in book.waiting(1000) if not house.parts.identities.identity(one.id).person_id] == [
        "u-flood"
    ]


def test_a_slow_issuer_holds_few_threads(
    house: ApiHouse, elsewhere: RealIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token endpoint may take ten seconds for each answer."""
    book, waiting, most = house.parts.identities, 0, 0

    def slow(*_given: object) -> Fetched:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        with pytest.raises(IssuerUnavailableError):
            end_one()  # meanwhile the next one comes back
        waiting -= 1
        return Fetched(503, b"")

    def end_one() -> None:
        begun = book.begin("198.51.100.9", "other", "/")
        state = dict(parse_qsl(urlsplit(begun.url).query))["state"]
        book.finish("other", begun.cookie, urlencode({"state": state, "code": "c", "iss": elsewhere.url}))

    monkeypatch.setattr(book._outbound, "send", slow)
    for _ in range(2):
        with pytest.raises(IssuerUnavailableError):
            end_one()
    assert most == MAX_EXCHANGES


def test_tokens_let_in_while_the_issuer_is_down(house: ApiHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never answered since the server started, so nothing is known of it."""

    def down(*_given: object) -> Fetched:
        raise PostError("id.example:443: no answer within 5 s", next_step="see that it runs")

    monkeypatch.setattr(house.parts.identities._keys, "_fetch", down)
    monkeypatch.setattr(house.parts.identities._keys, "_known", {})
    browser = Browser(house)
    refused = browser.pages.post("/login/with/corp", data={"next": "/"}, headers={"sec-fetch-site": "same-origin"})
    assert (refused.status_code, "no answer within 5 s" in refused.text) == (503, True)
    assert "With your password" in refused.text
    token = house.parts.access.create_token("dan", [Role.ADMIN], by="boss").token
    browser.pages.post("/login", data={"token": token}, headers={"sec-fetch-site": "same-origin"})
    me = browser.me(house)
    assert me is not None
    assert me.name == "dan"


def test_people_of_one_long_name_are_all_added(house: ApiHouse, elsewhere: RealIssuer) -> None:
    book = house.parts.identities
    long = book._provider("other").model_copy(update={"name": "p" * 32})
    opened = [
        book._let_in(long, {"sub": f"u-long-{n}", "preferred_username": "n" * 90, "groups": ["look"]}) for n in range(3)
    ]
    names = {one.session.principal.name for one in opened}
    assert (len(names), {len(name) <= 80 and name.endswith(")") for name in names}) == (3, {True})


def test_an_identity_is_shown_and_unknown_ones_are_not(house: ApiHouse) -> None:
    admin = house.client(Role.ADMIN)
    listed = admin.get(f"{API}/identities").json()["items"]
    for one in listed:
        assert admin.get(f"{API}/identities/{one['id']}").json() == one
    assert admin.post(f"{API}/identities/i-none:unlink").status_code == 404
    assert house.client(Role.OPERATOR).get(f"{API}/identities").status_code == 403
    with pytest.raises(UnknownIdentityError):
        house.parts.identities.link("i-none", "", "boss")
