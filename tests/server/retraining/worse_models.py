"""Retrained models that are worse than their parent: none may pass, and the good one must.

Each is held against its parent twice: on labelled evaluation samples, before any device, and by the gate of a shadow stage. A worse
model has a last layer that was trained on wrong labels: a share of them shuffled, from all down to three of four. Its answers and its
parent's come from the real network on images as they were and in fog; the decision of the stage is that of the rollout's rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgefleet_cli.demo import last_layer
from edgefleet_cli.demo.fog import VEIL
from edgefleet_converters.accuracy.parent_comparison import row_of
from edgefleet_converters.importance.importance_report import document_of
from edgefleet_converters.importance.permutation import TOP1
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.metrics import quality_facts
from edgefleet_server.rollout.analysis.model import Advance, Counts, Decision, Facts, RollBack, Rule
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.spec.model import Bound, Control, Metric, OnBreach, QualityGate, QualityMetric
from edgefleet_terms.parent_verdict import ParentComparison, comparison_text, read_comparison
from tests.house.tree import ROOT

DIGITS = ROOT / "examples" / "digits"
NOW = datetime(2026, 1, 5, tzinfo=UTC)
DEVICES, IMAGES = 100, 60
LEAST = 0.5
GATE = QualityGate(
    metrics=(QualityMetric(Metric.SHADOW_AGREEMENT, Bound.MIN, LEAST, OnBreach.FAIL),), control=Control.PREVIOUS
)


class Trainings:
    """What the last layer sees of foggy images, and the layer of the parent."""

    def __init__(self) -> None:
        model = onnx.load(DIGITS / "digits-1.1.0.onnx")
        tensors = {one.name: numpy_helper.to_array(one).astype("float64") for one in model.graph.initializer}
        self.layer = tensors[last_layer.WEIGHT], tensors[last_layer.BIAS]
        with np.load(DIGITS / "data" / "device.npz", allow_pickle=False) as arrays:
            image, self.label = arrays["image"], arrays["y"]
        foggy = (image * (1 - VEIL) + VEIL).astype("float32")
        self.features = last_layer.features_of(model, foggy)
        with np.load(DIGITS / "data" / "eval.npz", allow_pickle=False) as arrays:
            clear, was = arrays["image"], arrays["y"]
        self.judging = np.concatenate([last_layer.features_of(model, clear), self.features[1::2]])
        self.truth = np.concatenate([was, self.label[1::2]])

    def trained(self, share_wrong: float, seed: int) -> Any:
        """Return a last layer that was trained on labels of which a share is shuffled."""
        chance = np.random.default_rng(seed)
        label = self.label.copy()
        wrong = chance.random(len(label)) < share_wrong
        label[wrong] = chance.permutation(label[wrong])
        return last_layer.fitted(self.features[::2], label[::2], *self.layer)

    def comparison(self, layer: Any) -> ParentComparison:
        """Return how a layer does next to its parent's on samples that trained neither: half of clear days, half in fog."""
        losses = ((_answers(self.judging, one) != self.truth).astype(np.float64) for one in (layer, self.layer))
        return read_comparison(document_of(row_of(TOP1, "logits", *losses, given=len(self.truth))))

    def agreement(self, layer: Any, seed: int) -> list[float]:
        """Return how often a model with this layer answers as its parent in fog, by device."""
        chance = np.random.default_rng(seed)
        same = _answers(self.features, layer) == _answers(self.features, self.layer)
        return [float(same[chance.integers(0, len(same), IMAGES)].mean()) for _ in range(DEVICES)]


def _answers(features: Any, layer: Any) -> Any:
    return (features @ layer[0].T + layer[1]).argmax(axis=1)


def decision(agreement: list[float]) -> Decision:
    """Return what a rollout decides of a shadow stage whose devices have this agreement."""
    measured = [
        DeviceQuality(
            DeviceId(f"d{n}"), ProfileName("x86"), 0, "", NOW, NOW, {Metric.SHADOW_AGREEMENT: Span(after=one)}, None, None, False
        )
        for n, one in enumerate(agreement)
    ]  # fmt: skip
    n = len(measured)
    return decide(
        Facts(
            stage=0,
            stratum="x86",
            population=1000,
            counts=Counts(members=n, exposed=n, healthy=n),
            pooled_exposed=n,
            stage_members=n,
            stage_tried=n,
            rule=Rule.EVIDENCE,
            quality=quality_facts(GATE, 0, [(f"d{i}", 0) for i in range(n)], measured),
        )
    )


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Train `n` worse models and one good one, and hold each against its parent and the gate."""
    trainings = Trainings()
    found: list[str] = []
    before_devices = 0
    for number in range(n):
        layer = trainings.trained(1 - 0.25 * number / max(1, n - 1), seed + number)
        before_devices += trainings.comparison(layer).is_worse
        found.append(type(decision(trainings.agreement(layer, seed + number))).__name__)
    layer = trainings.trained(0.0, seed)
    good, compared = type(decision(trainings.agreement(layer, seed))).__name__, trainings.comparison(layer)
    stopped = found.count(RollBack.__name__)
    return {
        "ok": stopped == before_devices == n and good == Advance.__name__ and not compared.is_worse,
        "stopped": stopped,
        "stopped_before_devices": before_devices,
        "decisions": sorted(set(found)),
        "good": good,
        "good_next_to_its_parent": comparison_text(compared),
    }
