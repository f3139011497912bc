"""Retrained models that are worse than their parent, before the gate of a shadow stage: none may pass, and the good one must.

A worse model has a last layer that was trained on wrong labels: a share of them shuffled, from all down to three of four. Its answers and
its parent's come from the real network on foggy images, ten devices' worth of chance each; the decision is that of the rollout's rules.
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
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.metrics import quality_facts
from edgefleet_server.rollout.analysis.model import Advance, Counts, Decision, Facts, RollBack, Rule
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.spec.model import Bound, Control, Metric, OnBreach, QualityGate, QualityMetric
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

    def agreement(self, share_wrong: float, seed: int) -> list[float]:
        """Return how often a model that was trained on labels of which a share is shuffled answers as its parent, by device."""
        chance = np.random.default_rng(seed)
        label = self.label.copy()
        wrong = chance.random(len(label)) < share_wrong
        label[wrong] = chance.permutation(label[wrong])
        trained = last_layer.fitted(self.features[::2], label[::2], *self.layer)
        same = self._answers(trained) == self._answers(self.layer)
        return [float(same[chance.integers(0, len(same), IMAGES)].mean()) for _ in range(DEVICES)]

    def _answers(self, layer: Any) -> Any:
        return (self.features @ layer[0].T + layer[1]).argmax(axis=1)


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
    """Train `n` worse models and one good one, and hold each against the gate."""
    trainings = Trainings()
    found: list[str] = []
    for number in range(n):
        share = 1 - 0.25 * number / max(1, n - 1)
        found.append(type(decision(trainings.agreement(share, seed + number))).__name__)
    good = type(decision(trainings.agreement(0.0, seed))).__name__
    stopped = found.count(RollBack.__name__)
    return {
        "ok": stopped == n and good == Advance.__name__,
        "stopped": stopped,
        "decisions": sorted(set(found)),
        "good": good,
    }
