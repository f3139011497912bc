"""Which answers are kept: fair samples, bounded, sealed; and what a worker notes of its answers."""

import asyncio
import random
import time
import zlib
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_agent.captures.prediction_log import unpack_block
from edgefleet_agent.worker.control.protocol import Captured, Predictions, SetCapture, Start, ToAgentd
from edgefleet_agent.worker.observe.answer_log import AnswerLog
from edgefleet_agent.worker.observe.capture import (
    HELD_BYTES,
    MAX_STRATA,
    PER_STRATUM,
    RECENT,
    RECENT_BYTES,
    Capture,
    Held,
    Reservoir,
)
from edgefleet_protocol.hpke import about_record, new_key, unseal
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.postprocess import build_postprocessor
from edgefleet_runtime.preprocess import ArrayInput, Preprocess
from edgefleet_runtime.privacy import Keep, Privacy

PRIVATE, PUBLIC = new_key()
INPUTS = (TensorSpec(name="x", dtype="float32", shape=["n", 4]),)
OUTPUTS = (TensorSpec(name="y", dtype="float32", shape=["n", 3]),)
START = Start(model="digits", version="1", digest="d" * 64, lane="active", slot="A", bundle_fd=-1, log_predictions=True)
X = {"x": np.ones((1, 4), np.float32)}
SURE = {"y": np.array([[0.9, 0.05, 0.05]], np.float32)}
UNSURE = {"y": np.array([[0.4, 0.3, 0.3]], np.float32)}


def capture(ratio: float = 0.0, policy: Privacy | None = None, seed: int = 1) -> Capture:
    """Return the capture of a made-up model."""
    served = SimpleNamespace(
        start=START,
        privacy=policy or Privacy(fields={"x": [Keep()]}),
        preprocess=Preprocess(inputs=[ArrayInput(name="x")]),
        postprocess=build_postprocessor(None, ("a", "b", "c"), OUTPUTS),
        runtime=SimpleNamespace(inputs=INPUTS),
    )
    rules = SetCapture(PUBLIC, b"s" * 32, "d-1", ratio, 60.0)
    return Capture(cast("Any", served), rules, chance=random.Random(seed))


def opened(record: Captured) -> dict[str, Any]:
    """Return what a record holds."""
    packed = unseal(PRIVATE, record.sealed, about_record("d-1", record.record, "d" * 64))
    plain: dict[str, Any] = msgspec.msgpack.decode(zlib.decompress(packed))
    return plain


def held(number: int, label: int = 0, size: int = 4) -> Held:
    """Return an answer with an input of so many floats."""
    return Held(f"t{number}", number, label, {"x": np.zeros(size, np.float32)}, {}, 4 * size)


def test_while_signals_drift_more_answers_are_kept_but_no_more_a_window() -> None:
    one = capture(ratio=0.01)

    def seen(n: int) -> Counter[str]:
        for number in range(n):
            one.answered(f"t{number}", X, SURE, [number % 3], at_s=time.perf_counter())
        records = one.end_window()
        assert max(Counter((record.reason, record.label) for record in records).values(), default=0) <= PER_STRATUM
        return Counter(record.reason for record in records)

    assert set(seen(4_000)) == {"random"}
    one.is_drifting = True
    assert seen(4_000) == {"random": 3 * PER_STRATUM, "drift": 3 * PER_STRATUM}
    one.answered("t", X, UNSURE, [0], at_s=time.perf_counter())
    assert [record.reason for record in one.end_window()] == ["low_confidence"]
    one.is_drifting = False
    assert set(seen(4_000)) == {"random"}


def test_every_answer_of_a_window_has_the_same_chance() -> None:
    chance = random.Random(7)
    times: Counter[str] = Counter()
    for _ in range(4_000):
        reservoir = Reservoir(chance)
        for number in range(10):
            reservoir.offer("random", held(number))
        times.update(one.trace_id for _, _, one in reservoir.take())
    expected = 4_000 * PER_STRATUM / 10
    assert set(times) == {f"t{number}" for number in range(10)}
    assert all(abs(n - expected) < 5 * (expected * 0.8) ** 0.5 for n in times.values()), times


@given(st.lists(st.tuples(st.sampled_from(["random", "flag"]), st.integers(-1, 200)), max_size=300))
@settings(max_examples=30)
def test_records_stand_for_all_that_was_offered(offers: list[tuple[str, int]]) -> None:
    reservoir = Reservoir(random.Random(1))
    for number, (reason, label) in enumerate(offers):
        reservoir.offer(reason, held(number, label))
    taken = reservoir.take()
    kept = Counter((reason, one.label) for reason, _, one in taken)
    strata = set(offers)
    assert len(taken) <= PER_STRATUM * (MAX_STRATA + 2)
    if len(strata) <= MAX_STRATA:
        assert kept == {key: min(PER_STRATUM, offers.count(key)) for key in strata}
        for reason, seen, one in taken:
            assert abs(seen * kept[reason, one.label] - offers.count((reason, one.label))) <= 1
    assert reservoir.take() == []


def test_inputs_in_memory_are_bounded_also_where_a_larger_one_takes_a_place() -> None:
    reservoir = Reservoir(random.Random(1))
    for size in (1, HELD_BYTES // 40):
        for number in range(4_000):
            reservoir.offer("random", held(number, label=number % MAX_STRATA, size=size))
    assert sum(one.size_bytes for _, _, one in reservoir.take()) <= HELD_BYTES


def test_inputs_in_memory_are_bounded() -> None:
    reservoir = Reservoir(random.Random(1))
    for number in range(100):
        reservoir.offer("random", held(number, label=number, size=HELD_BYTES // 40))
    assert sum(one.size_bytes for _, _, one in reservoir.take()) <= HELD_BYTES


def test_an_unsure_answer_is_kept_and_opens_with_the_key_only() -> None:
    made = capture()
    assert made.answered("t1", X, UNSURE, [0], at_s=time.perf_counter())
    assert not made.answered("t2", X, SURE, [0], at_s=time.perf_counter())
    (record,) = made.end_window()
    assert (record.reason, record.label, record.trace_id, record.seen) == ("low_confidence", 0, "t1", 1)
    plain = opened(record)
    assert plain["fields"]["x"]["data"] == X["x"].tobytes()
    assert plain["outputs"]["y"]["shape"] == [1, 3]
    assert (plain["device"], plain["model"], plain["lane"], plain["dropped"]) == ("d-1", "digits", "active", [])
    assert X["x"].tobytes() not in record.sealed


def test_without_a_policy_only_the_answer_is_kept() -> None:
    made = capture(policy=Privacy())
    made.answered("t1", X, UNSURE, [0], at_s=time.perf_counter())
    plain = opened(made.end_window()[0])
    assert (plain["fields"], plain["dropped"]) == ({}, ["x"])
    made = capture(policy=Privacy(outputs=False))
    made.answered("t1", X, UNSURE, [0], at_s=time.perf_counter())
    assert opened(made.end_window()[0])["outputs"] == {}


def test_chance_keeps_its_share() -> None:
    made = capture(ratio=0.05)
    kept = sum(made.answered(f"t{i}", X, SURE, [0], at_s=time.perf_counter()) for i in range(4_000))
    assert 140 < kept < 260
    taken = made.end_window()
    assert len(taken) == PER_STRATUM
    assert sum(record.seen for record in taken) == pytest.approx(kept, abs=1)


def test_a_flag_finds_a_recent_answer_and_no_other() -> None:
    made = capture()
    for number in range(RECENT + 5):
        made.answered(f"t{number}", X, SURE, [0], at_s=time.perf_counter())
    assert not made.flag("t0")
    assert made.flag(f"t{RECENT}")
    assert [(r.reason, r.trace_id) for r in made.end_window()] == [("flag", f"t{RECENT}")]


def test_many_answers_of_one_trace_are_remembered_as_one_of_their_size() -> None:
    made = capture()
    x = {"x": np.ones((1, RECENT_BYTES // 16), np.float32)}
    for _ in range(6):  # a predict of several samples has one trace
        made.answered("t1", x, SURE, [0], at_s=time.perf_counter())
    made.answered("t2", X, SURE, [0], at_s=time.perf_counter())
    assert made.flag("t1")
    assert made.flag("t2")


def test_a_shadow_can_offer_what_it_disagrees_on() -> None:
    made = capture()
    made.keep("disagreement", X, {"1": [{"label": "a"}], "2": [{"label": "b"}]}, difference=0.5)
    (record,) = made.end_window()
    plain = opened(record)
    assert (record.reason, plain["note"]) == ("disagreement", "difference 0.5")
    assert plain["outputs"] == {"1": [{"label": "a"}], "2": [{"label": "b"}]}


def test_a_record_that_is_too_big_is_counted_and_not_kept() -> None:
    made = capture()
    noise = np.random.default_rng(1).random((1, 60_000), dtype=np.float32)
    made.answered("t1", {"x": noise}, UNSURE, [0], at_s=time.perf_counter())
    assert (made.end_window(), made.too_big) == ([], 1)


def test_the_watch_tells_answers_in_blocks_and_captures_after_their_window() -> None:
    told: list[ToAgentd] = []

    async def run() -> None:
        watch = AnswerLog(START, "y", told.append)
        made = capture()
        watch.tap = made
        assert watch.trace_of(b"caller-7") == "caller-7"
        assert watch.trace_of(b"bad\nid") != watch.trace_of(None)
        watch.answered(time.perf_counter(), "t1", X, UNSURE, [0], 0.002, nonfinite=False)
        watch.answered(time.perf_counter(), "t2", X, {"y": np.zeros((0,), np.float32)}, [], 0.001, nonfinite=True)
        watch.keep("disagreement", X, {})
        assert watch.flag("t1")
        watch.close()

    asyncio.run(run())
    assert isinstance(told[0], Predictions)
    rows = unpack_block(told[0].body).rows
    assert [(r.trace_id, r.top, r.latency_us, r.nonfinite) for r in rows] == [
        ("t1", 0, 2_000, False),
        ("t2", -1, 1_000, True),
    ]
    assert rows[0].score == pytest.approx(0.4)
    assert sorted(m.reason for m in told[1:] if isinstance(m, Captured)) == ["disagreement", "flag", "low_confidence"]


def test_a_watch_without_capture_keeps_nothing_and_says_so() -> None:
    told: list[ToAgentd] = []

    async def run() -> None:
        watch = AnswerLog(msgspec.structs.replace(START, log_predictions=False), "y", told.append)
        watch.answered(time.perf_counter(), "t1", X, SURE, [0], 0.001, nonfinite=False)
        watch.keep("disagreement", X, {})
        assert not watch.flag("t1")
        watch.close()

    asyncio.run(run())
    assert told == []
