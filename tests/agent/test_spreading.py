"""When a device of many begins to ask for a bundle: its own part of the span, once, and never for longer than that."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install.desired_diff import is_early, must_wait, spread
from edgefleet_agent.install.records import CandidateRequest, DesiredOk, ModelRecord, Wanted
from edgefleet_protocol.digest import start_after_s
from edgefleet_protocol.messages import Phase
from tests.agent.records import NOW, serving, wanted


def asked(digest: str = "b", gen: int = 5, within_s: int = 600, **fields: Any) -> Wanted:
    """Return a wish as the document has it: with a span, and no start yet."""
    return msgspec.structs.replace(wanted(digest, gen=gen), start_within_s=within_s, **fields)


def accepted(*wishes: Wanted, device: str = "d-1", beside: tuple[Wanted, ...] = ()) -> DesiredOk:
    """Return what a document says of these."""
    candidates = [CandidateRequest(wanted=one, mode="shadow") for one in beside]
    return DesiredOk(
        device=device,
        gen=5,
        raw_sha256="",
        issued_s=0,
        expires_s=0,
        wanted=list(wishes),
        idle_models=[],
        candidates=candidates,
    )


@given(st.text(min_size=1, max_size=20), st.integers(1, 86_400))
def test_a_device_begins_within_the_span_and_its_deadline_ends_when_the_server_s_does(
    device: str, within_s: int
) -> None:
    (one,) = spread(accepted(asked(within_s=within_s, download_s=86_400), device=device), None, NOW).wanted
    assert NOW <= one.start_s < NOW + within_s
    assert one.start_s - NOW + one.download_s == 86_400


def test_a_document_without_a_span_is_left_as_it_is() -> None:
    document = accepted(wanted("b"))
    assert spread(document, None, NOW) == document


def test_the_wait_is_counted_from_the_first_document_over_new_signings_and_restarts() -> None:
    first = spread(accepted(asked()), None, NOW)
    again = spread(accepted(asked(gen=9)), first, NOW + 400)
    assert again.wanted[0].start_s == first.wanted[0].start_s
    assert again.wanted[0].download_s == first.wanted[0].download_s
    beside = spread(accepted(beside=(asked(),)), first, NOW + 400)
    assert beside.candidates[0].wanted.start_s == first.wanted[0].start_s


def test_another_attempt_rollout_or_bundle_waits_anew() -> None:
    first = spread(accepted(asked()), None, NOW)
    for other in (asked(attempt=2), asked(rollout="r-2"), asked("c")):
        (one,) = spread(accepted(other), first, NOW + 4_000).wanted
        assert one.start_s >= NOW + 4_000


@pytest.mark.parametrize(
    ("start_s", "now_s", "early"),
    [
        (NOW + 30, NOW, True),
        (NOW + 30, NOW + 29, True),
        (NOW + 30, NOW + 30, False),
        (NOW + 30, NOW + 40, False),
        (NOW + 600, NOW, True),
        (NOW + 601, NOW, False),  # the clock was turned back since
        (0, NOW, False),
    ],
)
def test_a_turned_clock_never_makes_it_longer(start_s: int, now_s: int, early: bool) -> None:
    assert is_early(asked(start_s=start_s), now_s) is early


def test_who_need_not_ask_or_tries_again_does_not_wait() -> None:
    one = asked(start_s=NOW + 30)
    assert must_wait(serving(), one, now_s=NOW, in_slot=False)
    assert must_wait(ModelRecord(model="digits"), one, now_s=NOW, in_slot=False), "a first version waits, too"
    assert not must_wait(serving(), one, now_s=NOW, in_slot=True)
    failed = msgspec.structs.replace(serving(phase=Phase.FAILED), wanted=wanted("b", gen=3))
    assert not must_wait(failed, one, now_s=NOW, in_slot=False)
    assert must_wait(msgspec.structs.replace(failed, wanted=wanted("c")), one, now_s=NOW, in_slot=False)


def test_ten_thousand_devices_begin_evenly() -> None:
    starts = [start_after_s(f"d-{number:06}", "b" * 64, 50) for number in range(10_000)]
    each_s = [starts.count(second) for second in range(50)]
    assert sum(each_s) == 10_000
    assert min(each_s) > 130
    assert max(each_s) < 270, "200 a second, within five sigma"
