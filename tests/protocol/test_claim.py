"""Claim tokens: one text for server and device, and clean refusal of any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.claim import ClaimToken, decode_claim, encode_claim
from edgefleet_protocol.errors import BadMessageError

TOKEN = ClaimToken(url="https://h:1", id="c", secret="s?~", ca="a", root="b")
TEXT = "efc1.eyJ1cmwiOiJodHRwczovL2g6MSIsImlkIjoiYyIsInNlY3JldCI6InM_fiIsImNhIjoiYSIsInJvb3QiOiJiIn0"


def test_a_token_is_this_text() -> None:
    assert encode_claim(TOKEN) == TEXT
    assert decode_claim(TEXT) == TOKEN


@pytest.mark.parametrize("text", ["", "efc1.", "efc1.@@@", "efc2" + TEXT[4:], "efc1.e30", "efc1.AAAA", TEXT[:-4]])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(BadMessageError):
        decode_claim(text)


@given(st.text(max_size=60))
def test_any_text_after_the_prefix_is_refused_cleanly(text: str) -> None:
    with pytest.raises(BadMessageError):
        decode_claim("efc1." + text)
