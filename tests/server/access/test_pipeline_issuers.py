"""Issuers of pipelines: their keys are fetched seldom, hostile answers are refused, and the exchange over REST."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgefleet_server.access.errors import (
    BadIdTokenError,
    IssuerUnavailableError,
    TooManyRequestsError,
    UsedIdTokenError,
)
from edgefleet_server.access.model import Role
from edgefleet_server.access.openid.id_tokens import IdTokens
from edgefleet_server.access.openid.issuer_documents import read_keys
from edgefleet_server.access.openid.issuer_keys import AFTER_FAILURE_S, AGAIN_S, FRESH_S, USABLE_S, IssuerKeys
from edgefleet_server.access.trusted_pipelines.model import (
    TOKEN_LIFE,
)
from edgefleet_server.access.trusted_pipelines.service import TRIES_A_MINUTE
from edgefleet_server.clock import SystemClock
from edgefleet_server.db.database import Database
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import Fetched, HttpPoster
from tests.server.access.local_issuer import AUDIENCE, LocalIssuer, another_key, ec_jwk, rsa_jwk, rsa_key
from tests.server.access.test_trusted_pipelines import API, Desk
from tests.support.receivers import LOOPBACK, receiving
from tests.support.servers import ApiHouse, HandClock


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
