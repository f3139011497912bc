"""When a device begins: its own part of a span, the same each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.digest import part_of, start_after_s

PART_OF_ONE = 0.9579764765876391
PART_OF_TWO = 0.21731828516799467
"""Worked out once: what devices in the field do."""
_WORDS = st.text(max_size=20)


def test_a_device_begins_at_the_second_that_its_part_says() -> None:
    assert (part_of("d-one", "ab" * 32), part_of("d-two", "ab" * 32)) == (PART_OF_ONE, PART_OF_TWO)
    assert [start_after_s("d-one", "ab" * 32, span) for span in (0, 1, 60, 3600)] == [
        0,
        0,
        int(60 * PART_OF_ONE),
        int(3600 * PART_OF_ONE),
    ]


@given(_WORDS, _WORDS, st.integers(0, 100_000))
def test_it_begins_within_the_span(device: str, word: str, within_s: int) -> None:
    assert 0 <= start_after_s(device, word, within_s) < max(1, within_s)
    assert 0 <= part_of(device, word) < 1
