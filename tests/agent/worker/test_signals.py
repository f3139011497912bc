"""Signals: a real worker counts what it was asked and answered by its bundle's reference, or learns one."""

import json
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from edgefleet_agent.worker.control.protocol import Captured, GetStats, KnownReference, SetCapture, SetDrift, Stats
from edgefleet_agent.worker.observe.signal_log import PICTURES_A_S
from edgefleet_protocol.drift.histogram import SignalSums, merged_windows, unpack
from edgefleet_protocol.drift.reference import (
    MEMBER,
    Confidence,
    Reference,
    Signal,
    basis_of,
    read_reference,
    write_reference,
)
from edgefleet_protocol.hpke import new_key
from edgefleet_runtime.port import load
from edgefleet_runtime.signals import counted, signal_plan, signal_values
from tests.agent.worker.conftest import Rig, RunningWorker
from tests.agent.worker.models import bundle_bytes, classifier_onnx, picture_onnx

LABELS = {"labels.txt": b"zero\none\ntwo\n"}
REFERENCE = Reference(
    n=100,
    features=[
        Signal(
            name=f"x.{column}",
            mean=0.5,
            std=0.25,
            high=1.0,
            edges=[0.25, 0.5, 0.75],
            counts=[25, 25, 25, 25],
            hours={"0": [9, 9, 9, 9]},
        )
        for column in range(4)
    ],
    classes=[40, 30, 30],
    confidence=Confidence([0.35, 0.4, 0.5], [10, 40, 40, 10]),
)
WITH_REFERENCE = {**LABELS, MEMBER: write_reference(REFERENCE)}
Rows = npt.NDArray[np.float32]


def rows(n: int, seed: int = 1) -> Rows:
    """Return inputs of the test classifier, some of them beyond what its reference saw."""
    return (np.random.default_rng(seed).random((n, 4)) * 1.2 - 0.1).astype(np.float32)


def expected(x: Rows, reference: Reference = REFERENCE) -> list[SignalSums]:
    """Return what is to be counted of inputs, each an answer of its own."""
    model = load("ort", classifier_onnx())
    answers = model.run({"x": x})
    plan = signal_plan(reference, model.inputs, model.outputs)
    return counted(signal_values({"x": x}, answers, plan), plan)


def by_http(rig: Rig, x: Rows) -> None:
    """Ask for each row by JSON, one request each."""
    for row in x.tolist():
        assert rig.infer([row])[0] == 200


def in_one(rig: Rig, x: Rows) -> None:
    """Ask for all rows in one binary request."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert rig.request("POST", "/v2/models/digits/infer", head + x.tobytes(), headers)[0] == 200


def stats(worker: RunningWorker) -> Stats:
    """Return the worker's next figures."""
    worker.link.send(GetStats())
    return worker.until(Stats)


@pytest.mark.parametrize("ask", [by_http, in_one])
def test_what_was_asked_and_answered_is_counted(rig: Rig, ask: Callable[[Rig, Rows], None]) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=WITH_REFERENCE))
    known = worker.until(KnownReference)
    assert basis_of(read_reference(known.body)) == basis_of(REFERENCE)
    assert read_reference(known.body) == REFERENCE
    worker.serve()
    x = rows(40)
    ask(rig, x)
    found = stats(worker)
    assert found.basis == basis_of(REFERENCE)
    assert unpack(found.signals) == expected(x)
    assert sum(one.beyond for one in unpack(found.signals)) > 0
    assert (stats(worker).signals, stats(worker).basis) == (b"", b"")
    ask(rig, x[:3])
    worker.drain()
    worker.until(Stats)
    last = worker.messages[-1]
    assert isinstance(last, Stats)
    assert unpack(last.signals) == expected(x[:3])


def test_more_answers_than_are_counted_at_once_are_all_counted(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=WITH_REFERENCE))
    worker.serve()
    x = rows(700)
    parts = [x[at : at + 2] for at in range(0, len(x), 2)]
    for part in parts:
        in_one(rig, part)
    assert unpack(stats(worker).signals) == expected(x) == merged_windows([expected(part) for part in parts])


def test_what_is_not_finite_is_missing(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=WITH_REFERENCE))
    worker.serve()
    in_one(rig, np.array([[np.nan, 0.1, np.inf, 0.2]], np.float32))
    found = unpack(stats(worker).signals)
    assert [(one.n, one.missing) for one in found] == [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)]


@pytest.mark.parametrize("is_learned", [False, True])
def test_what_the_policy_drops_is_counted_as_missing(rig: Rig, is_learned: bool) -> None:
    policy = {"privacy.json": b'{"fields": {"x": [{"do": "drop"}]}}'}
    worker = rig.start(bundle_bytes(classifier_onnx(), extra={**(LABELS if is_learned else WITH_REFERENCE), **policy}))
    worker.serve()
    if is_learned:
        in_one(rig, rows(1_100))
        assert stats(worker).signals == b""
        known = read_reference(next(one for one in worker.messages if isinstance(one, KnownReference)).body)
        assert [(one.low, one.high, one.counts, one.missing) for one in known.features] == [(0, 0, [0], 1_100)] * 4
    in_one(rig, rows(30))
    *inputs, confidence = unpack(stats(worker).signals)
    assert [(one.n, one.missing, one.low, one.high) for one in inputs] == [(0, 30, 0, 0)] * 4
    assert confidence.n == 30


def test_a_model_without_a_reference_learns_one_and_counts_by_it(rig: Rig) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), extra=LABELS))
    worker.serve()
    x = rows(1_100)
    in_one(rig, x[:600])
    before = stats(worker)
    assert (before.signals, before.learning) == (b"", 600)
    in_one(rig, x[600:])
    after = stats(worker)
    known = worker.messages[-2]
    assert isinstance(known, KnownReference)
    learned = read_reference(known.body)
    assert (learned.source, learned.n, len(learned.features), len(learned.classes)) == ("learned", 1_100, 4, 3)
    assert sum(learned.confidence.counts) == 1_100
    for column, signal in enumerate(learned.features):
        assert signal.name == f"x.{column}"
        assert all(abs(count - 110) <= 2 for count in signal.counts), "its bins are deciles"
        assert (signal.low, signal.high) == (x[:, column].min(), x[:, column].max())
    assert (after.signals, after.learning) == (b"", 0), "what was learned from is not compared with itself"
    in_one(rig, x[:30])
    found = stats(worker)
    assert (found.basis, unpack(found.signals)) == (basis_of(learned), expected(x[:30], learned))
    (rig.folder / "learned").write_bytes(write_reference(learned))
    worker.drain()
    other = rig.start(bundle_bytes(classifier_onnx(), extra=LABELS), reference_path=str(rig.folder / "learned"))
    other.serve()
    in_one(rig, x[:20])
    assert unpack(stats(other).signals) == expected(x[:20], learned)


@pytest.mark.parametrize(
    "reference",
    [b"no reference", write_reference(Reference(n=1, features=[Signal(name="z.0", counts=[1])]))],
)
def test_a_reference_that_cannot_be_used_harms_no_answer(rig: Rig, reference: bytes) -> None:
    worker = rig.start(bundle_bytes(classifier_onnx(), extra={**LABELS, MEMBER: reference}))
    worker.serve()
    in_one(rig, rows(10))
    assert (stats(worker).n, stats(worker).signals) == (1, b"")


def test_of_pictures_a_few_a_second_are_looked_at(rig: Rig) -> None:
    model = picture_onnx(16)
    words = ("brightness", "contrast", "blur", "channel_0", "channel_1", "channel_2")
    reference = Reference(
        n=9,
        features=[
            Signal(name=f"x.{word}", kind="image", std=0.1, edges=[0.4, 0.6], counts=[3, 3, 3]) for word in words
        ],
    )
    x = np.random.default_rng(1).random((8, 3, 16, 16), np.float32)
    data = bundle_bytes(model, golden_inputs=x, extra={MEMBER: write_reference(reference)})
    worker = rig.start(data)
    worker.serve()
    began = time.monotonic()
    for _ in range(40):
        in_one(rig, x[:1])
    looked_s = time.monotonic() - began
    found = stats(worker)
    signals = unpack(found.signals)
    assert found.n == 40
    assert {one.missing for one in signals} == {0}
    assert 1 <= signals[0].n <= 2 + PICTURES_A_S * looked_s
    runtime = load("ort", model)
    plan = signal_plan(reference, runtime.inputs, runtime.outputs)
    once = counted(signal_values({"x": x[:1]}, {}, plan), plan)
    assert signals == merged_windows([once] * signals[0].n)


def test_while_signals_drift_a_worker_captures_more(rig: Rig) -> None:
    policy = {"privacy.json": b'{"fields": {"x": [{"do": "keep"}]}, "low_confidence": 0.0}'}
    worker = rig.start(bundle_bytes(classifier_onnx(), extra={**WITH_REFERENCE, **policy}))
    worker.serve()
    rules = SetCapture(key=new_key()[1], salt=b"s" * 32, device="d-1", random_ratio=0.0, window_s=0.1)
    worker.link.send(rules)
    worker.link.send(SetDrift(is_drifting=True))
    for row in rows(300):
        in_one(rig, row[None])
    assert worker.until(Captured).reason == "drift"
    worker.link.send(SetDrift())
    worker.link.send(rules)
    stats(worker)
    before = sum(isinstance(one, Captured) for one in worker.messages)
    for row in rows(300):
        in_one(rig, row[None])
    worker.drain()
    worker.until(Stats)
    assert sum(isinstance(one, Captured) for one in worker.messages) == before
