"""Tries with wrong secrets: bounded by address and account, and no neighbour is locked out."""

import msgspec
import pytest

from edgefleet_protocol.claim import decode_claim, encode_claim
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.errors import BadClaimError
from edgefleet_server.web.attempt_limits import (
    KNOWN_S,
    MAX_FAILURES,
    MAX_KEYS,
    MAX_OF_ADDRESS,
    Attempt,
    AttemptLimiter,
    TooManyLoginsError,
)
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse, HandClock


def attempt(address: str, account: str, secret: str = "wrong") -> Attempt:
    """Return a try."""
    return Attempt(address, account, secret)


def test_an_account_that_fails_often_waits_and_its_neighbours_do_not() -> None:
    clock = HandClock()
    limiter = AttemptLimiter(clock, tuple)
    for _ in range(MAX_FAILURES):
        limiter.check(attempt("a", "one"))
        limiter.note_failure(attempt("a", "one"))
    with pytest.raises(TooManyLoginsError) as refused:
        limiter.check(attempt("a", "one"))
    assert refused.value.retry_after_s == 60
    limiter.check(attempt("a", "two"))
    limiter.check(attempt("b", "one"))
    clock.turn(seconds=60)
    limiter.check(attempt("a", "one"))


def test_who_knows_an_id_does_not_lock_out_its_owner_behind_the_same_address() -> None:
    limiter = AttemptLimiter(HandClock(), tuple)
    limiter.note_success(attempt("elsewhere", "one", "right"))
    for _ in range(MAX_OF_ADDRESS):
        limiter.note_failure(attempt("a", "one"))
    limiter.check(attempt("a", "one", "right"))
    limiter.note_failure(attempt("a", "one", "right"))
    with pytest.raises(TooManyLoginsError):
        limiter.check(attempt("a", "one", "right"))


def test_the_addresses_of_one_network_of_ipv6_count_as_one() -> None:
    limiter = AttemptLimiter(HandClock(), tuple)
    for number in range(MAX_OF_ADDRESS):
        limiter.note_failure(attempt(f"2001:db8:0:1::{number:x}", f"x{number}"))
    with pytest.raises(TooManyLoginsError):
        limiter.check(attempt("2001:db8:0:1::ffff", "x"))
    limiter.check(attempt("2001:db8:0:2::1", "x"))


def test_invented_accounts_are_refused_unread_and_existing_ones_are_not() -> None:
    clock, asked, existing = HandClock(), [0], ["mine"]

    def accounts() -> list[str]:
        asked[0] += 1
        return existing

    limiter = AttemptLimiter(clock, accounts)
    for number in range(MAX_OF_ADDRESS):
        limiter.check(attempt("a", f"x{number}"))
        limiter.note_failure(attempt("a", f"x{number}"))
    for _ in range(100):
        limiter.check(attempt("a", "mine"))
        with pytest.raises(TooManyLoginsError):
            limiter.check(attempt("a", "another"))
    limiter.check(attempt("b", "another"))
    assert asked == [1]
    existing.append("another")
    clock.turn(seconds=KNOWN_S)
    limiter.check(attempt("a", "another"))


def test_what_is_remembered_is_bounded() -> None:
    limiter = AttemptLimiter(HandClock(), tuple)
    for number in range(2 * MAX_KEYS):
        limiter.note_failure(attempt(f"a{number}", "x"))
        limiter.note_success(attempt("a", "x", str(number)))
    assert len(limiter._failures) == len(limiter._worked) == MAX_KEYS


def test_wrong_tokens_at_the_api_wait_and_another_token_of_the_address_does_not(house: ApiHouse) -> None:
    good = house.token(Role.VIEWER)
    wrong = good[:-3] + "AAA"
    client = house.client()
    asked = [
        client.get("/api/v1/whoami", headers={"authorization": f"Bearer {wrong}"}) for _ in range(MAX_FAILURES + 1)
    ]
    assert [one.status_code for one in asked] == [401] * MAX_FAILURES + [429]
    assert asked[-1].headers["retry-after"] == "60"
    assert house.client(Role.VIEWER).get("/api/v1/whoami").status_code == 200


def test_invented_tokens_at_the_api_end_at_the_limit_of_the_address_and_real_ones_pass(house: ApiHouse) -> None:
    client, neighbour = house.client(), house.client(Role.VIEWER)

    def status_of(number: int) -> int:
        invented = "edg_" + f"{number:012d}".translate(str.maketrans("0189", "abcd")) + "_" + "A" * 43
        answer = client.get("/api/v1/whoami", headers={"authorization": f"Bearer {invented}"})
        return int(answer.status_code)

    assert {status_of(number) for number in range(MAX_OF_ADDRESS)} == {401}
    assert status_of(MAX_OF_ADDRESS) == 429
    assert neighbour.get("/api/v1/whoami").status_code == 200


def test_wrong_claim_tokens_wait_and_the_right_one_enrols(house: ApiHouse) -> None:
    enrolment = house.parts.fleet.enrolment
    right, other = (claim.token for claim in enrolment.create_claims(count=2, uses=3))
    wrong = encode_claim(msgspec.structs.replace(decode_claim(right), secret="A" * 43))
    device = KeyedDevice()
    for _ in range(MAX_FAILURES):
        with pytest.raises(BadClaimError):
            enrolment.enroll(wrong, device.csr(), FACTS, address="a")
    with pytest.raises(TooManyLoginsError):
        enrolment.enroll(wrong, device.csr(), FACTS, address="a")
    assert enrolment.enroll(other, device.csr(), FACTS, address="a").device_id
    assert enrolment.enroll(right, KeyedDevice().csr(), FACTS, address="b").device_id
    assert enrolment.enroll(right, KeyedDevice().csr(), FACTS, address="a").device_id, "it has worked before"
