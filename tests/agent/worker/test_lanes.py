"""Which lane answers: sticky by key, monotone in the share, the same on every device with the same salt."""

import json

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.worker.control.protocol import LaneRoute, ModelRoute
from edgefleet_agent.worker.http.server import Request
from edgefleet_agent.worker.routing.split import candidate_for, key_of, point

CANDIDATE = LaneRoute("/c", "1.1.0", "d", "B")
LANES = {"active": LaneRoute("/a", "1.0.0", "c", "A"), "candidate": CANDIDATE}
PATH = "/v2/models/m/infer"


def request(body: bytes = b"", target: str = PATH, **headers: bytes) -> Request:
    return Request("POST", target, [(name.replace("_", "-").encode(), value) for name, value in headers.items()], body)


def split(share_pct: float, salt: str = "s") -> ModelRoute:
    return ModelRoute(LANES, mode="split", share_pct=share_pct, salt=salt)


@given(key=st.binary(min_size=1, max_size=30), low=st.integers(0, 100), more=st.integers(0, 100))
def test_a_larger_share_never_takes_a_key_from_the_candidate(key: bytes, low: int, more: int) -> None:
    asked = request(x_edgefleet_key=key)
    high = min(100, low + more)
    if candidate_for(split(low), asked) is not None:
        assert candidate_for(split(high), asked) is CANDIDATE
    assert candidate_for(split(0), asked) is None
    assert candidate_for(split(100), asked) is CANDIDATE


def test_the_share_is_kept_among_many_keys_and_another_salt_divides_otherwise() -> None:
    keys = [f"customer-{i}".encode() for i in range(4000)]
    chosen = {key for key in keys if candidate_for(split(20), request(x_edgefleet_key=key))}
    other = {key for key in keys if candidate_for(split(20, "t"), request(x_edgefleet_key=key))}
    assert 0.17 < len(chosen) / len(keys) < 0.23
    assert 0.1 < len(chosen & other) / len(chosen) < 0.3


def test_the_key_is_the_header_then_the_query_then_the_parameter_then_the_request() -> None:
    body = json.dumps({"parameters": {"key": "p"}, "inputs": []}).encode()
    assert key_of(request(body, f"{PATH}?key=q", x_edgefleet_key=b"h")) == b"h"
    assert key_of(request(body, f"{PATH}?key=q")) == b"q"
    assert key_of(request(body)) == b"p"
    binary = request(body + b"\x00\x01", inference_header_content_length=str(len(body)).encode())
    assert key_of(binary) == b"p"
    assert key_of(request(json.dumps({"parameters": {"key": 7}}).encode())) == b"7"
    bare = key_of(request(b"\xff\xd8jpeg"))
    assert bare == key_of(request(b"\xff\xd8jpeg")) != key_of(request(b"\xff\xd8jpegs"))


@given(st.binary(max_size=60))
def test_any_body_has_a_key(body: bytes) -> None:
    assert key_of(request(body))
    assert key_of(request(b"{" + body, inference_header_content_length=b"9999"))


def test_points_are_those_of_the_rank_formula() -> None:
    assert point("", b"") == int.from_bytes(bytes.fromhex("6e340b9cffb37a98"), "big") / 2**64


def test_only_a_split_with_a_ready_candidate_divides() -> None:
    asked = request(x_edgefleet_key=b"k")
    assert candidate_for(None, asked) is None
    assert candidate_for(ModelRoute(LANES, mode="shadow", share_pct=100), asked) is None
    starting = LaneRoute("/c", "1.1.0", "d", "B", "starting")
    assert candidate_for(ModelRoute({**LANES, "candidate": starting}, mode="split", share_pct=100), asked) is None
