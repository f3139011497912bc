"""Messages: round trips by hypothesis, total phase map, clean refusal of any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol import messages
from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.messages import AssignmentState, Phase, assignment_of
from tests.support import samples

text = st.text(max_size=20)
small = st.integers(0, 2**53)
states = st.builds(
    messages.State,
    device=text,
    gen=small,
    boot_id=text,
    seq=small,
    ts=small,
    models=st.lists(
        st.builds(
            messages.ModelState,
            model=text,
            phase=st.sampled_from(Phase),
            active_sha256=text,
            error_class=st.none() | st.sampled_from(messages.ErrorClass),
            reason=text,
            attempt=small,
            serving=st.booleans(),
        ),
        max_size=3,
    ),
    refused_reason=text,
    facts=st.dictionaries(text, text | small | st.booleans(), max_size=3),
)
events = st.builds(
    messages.Event,
    device=text,
    boot_id=text,
    seq=small,
    ts=small,
    kind=st.sampled_from(messages.EventKind),
    phase=st.none() | st.sampled_from(Phase),
    error_class=st.none() | st.sampled_from(messages.ErrorClass),
    detail=st.dictionaries(text, text, max_size=3),
)
windows = st.builds(
    messages.Window,
    t0=small,
    length_s=small,
    model=text,
    lane=text,
    sha256=text,
    version=text,
    n=small,
    latency=st.lists(small, max_size=5),
    classes=st.lists(small, max_size=5),
    worker_cpu_s=st.floats(0, 1e6),
)
telemetry = st.builds(
    messages.Telemetry,
    device=text,
    boot_id=text,
    seq=small,
    ts=small,
    windows=st.lists(windows, max_size=3),
    dropped=small,
)


@given(st.one_of(states, events, telemetry))
def test_round_trip(message: messages.State | messages.Event | messages.Telemetry) -> None:
    assert messages.decode(type(message), messages.encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused_cleanly(data: bytes) -> None:
    for cls in {type(sample) for sample in samples.MESSAGES.values()}:
        try:
            messages.decode(cls, data)
        except BadMessageError:
            continue


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_an_assignment_state(phase: Phase) -> None:
    assert assignment_of(phase) in AssignmentState


def test_only_committed_is_healthy() -> None:
    assert [p for p in Phase if assignment_of(p) is AssignmentState.HEALTHY] == [Phase.COMMITTED]


@pytest.mark.parametrize("name", sorted(samples.MESSAGES))
def test_a_short_message_is_the_same_message(name: str) -> None:
    sample = samples.MESSAGES[name]
    short = messages.encode_short(sample)
    assert messages.decode(type(sample), short) == sample
    assert len(short) <= len(messages.encode(sample))


@given(
    st.lists(windows, max_size=3),
    st.builds(
        messages.SystemFigures,
        cpu_ratio=st.floats(-1, 1),
        temperature_celsius=st.sampled_from([-1.0, 41.0, 41.5]),
        disk_free_bytes=small,
    ),
    st.lists(small, max_size=3),
    small,
)
def test_what_is_assumed_is_not_said_and_everything_else_is(
    told: list[messages.Window], system: messages.SystemFigures, dropped_by: list[int], merged: int
) -> None:
    message = messages.Telemetry(
        device="d", boot_id="b", seq=1, ts=2, windows=told, system=system, dropped_by=dropped_by, merged=merged
    )
    assert messages.decode(messages.Telemetry, messages.encode_short(message)) == message


def test_a_quiet_message_is_much_shorter() -> None:
    window = messages.Window(t0=1, length_s=900, model="digits", lane="active", sha256="a" * 64, version="1")
    quiet = messages.Telemetry(device="d", boot_id="b", seq=1, ts=2, windows=[window])
    assert len(messages.encode(quiet)) - len(messages.encode_short(quiet)) >= 60
