"""How long a document rests that killed the install child: longer each time, never too long, and not for all devices alike."""

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install.retry_delay import CHILD_DIED_LIMIT, rest_after
from edgefleet_protocol.digest import part_of

WORDS = st.text(min_size=1, max_size=30)


@given(WORDS, st.binary(max_size=50), st.integers(CHILD_DIED_LIMIT, 10_000))
def test_a_rest_is_in_the_second_half_of_its_span(device: str, raw: bytes, deaths: int) -> None:
    whole_s = min(3600.0, 60.0 * 2.0 ** min(deaths - CHILD_DIED_LIMIT, 20))
    rest = rest_after(raw, deaths, device, first_s=60.0, most_s=3600.0)
    assert whole_s / 2 < rest.lasts_s <= whole_s
    assert rest == rest_after(raw, deaths, device, first_s=60.0, most_s=3600.0)


def test_the_spans_of_a_device_that_never_gets_through() -> None:
    spans = [rest_after(b"d", n, "d-1", first_s=60.0, most_s=3600.0).lasts_s for n in range(3, 12)]
    bounds = [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert all(bound / 2 < span <= bound for span, bound in zip(spans, bounds, strict=True))


def test_a_fleet_that_died_of_one_document_tries_it_again_spread_over_half_the_span() -> None:
    spans = sorted(rest_after(b"d", 3, f"d-{n}", first_s=60.0, most_s=3600.0).lasts_s for n in range(3000))
    in_a_second = [sum(second <= span < second + 1 for span in spans) for second in range(30, 60)]
    assert max(in_a_second) < 2 * 3000 / 30


@given(WORDS, WORDS)
def test_a_part_is_a_part(device: str, word: str) -> None:
    assert 0.0 <= part_of(device, word) < 1.0


def test_parts_are_uniform_over_devices_and_new_for_another_word() -> None:
    parts = [part_of(f"d-{n}", "one") for n in range(10_000)]
    tenths = [sum(int(part * 10) == tenth for part in parts) for tenth in range(10)]
    assert all(850 < count < 1150 for count in tenths), tenths  # 5 sigma
    others = [part_of(f"d-{n}", "two") for n in range(10_000)]
    mean = sum((a - 0.5) * (b - 0.5) for a, b in zip(parts, others, strict=True)) / 10_000
    assert abs(mean * 12) < 0.05, "no correlation"
