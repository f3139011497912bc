"""F19 in small: no parser crashes, hangs or takes what it may not. `./dev soak fuzz` gives each a million inputs."""

from typing import Any

import pytest

from tests.hostile.device.fuzz import SLOWEST_S, fuzz
from tests.hostile.device.parsers import PARSERS, Parser
from tests.house.soak import in_ci

SEED = 19
SLOW = {"hardware profile": 40}
"""Parsers that get a smaller part of the inputs: YAML takes 2 ms each."""


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_survives_random_inputs(parser: Parser) -> None:
    counts = fuzz(parser, in_ci("fuzz") // SLOW.get(parser.name, 1), SEED)
    assert counts.is_good, counts


def _crash(_data: bytes) -> Any:
    raise IndexError("out of range")


def _hang(_data: bytes) -> Any:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "counted"), [(_crash, "crashes"), (_hang, "hangs"), (lambda data: data, "wrongly_taken")]
)
def test_what_goes_wrong_is_counted(monkeypatch: pytest.MonkeyPatch, read: Any, counted: str) -> None:
    monkeypatch.setattr("tests.hostile.device.fuzz.SLOWEST_S", SLOWEST_S / 50)
    counts = fuzz(Parser("bad", (b"honest",), read, is_wrong=lambda _data, _value: True), 3, SEED)
    assert getattr(counts, counted) >= 3
    assert not counts.is_good
    assert counts.shown
