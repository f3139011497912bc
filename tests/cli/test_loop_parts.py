"""Parts of `demo --loop` without its processes: the layer that is trained, and how a step is told."""

from __future__ import annotations

import numpy as np

from edgefleet_cli.demo.last_layer import fitted
from edgefleet_cli.demo.narration import lines


def test_a_layer_learns_what_it_is_shown_and_stays_near_what_it_was() -> None:
    chance = np.random.default_rng(3)
    label = np.arange(120) % 3
    features = chance.normal(0, 0.3, (120, 5)) + np.eye(5)[label]
    weight, bias = fitted(features, label, np.zeros((3, 5)), np.zeros(3))
    assert (weight.shape, bias.shape) == ((3, 5), (3,))
    assert ((features @ weight.T + bias).argmax(axis=1) == label).mean() > 0.97
    unseen = np.zeros((3, 5))
    unseen[:, 4] = 7.0  # a feature that never occurs in what is shown
    kept, _ = fitted(np.where(np.arange(5) == 4, 0.0, features), label, unseen, np.zeros(3))
    assert np.allclose(kept[:, 4], 7.0, atol=0.1)


def test_a_step_says_of_how_many_it_is() -> None:
    assert lines(3, "fog comes", ("it is thick",), 80, 8) == ["3/8 fog comes", "    it is thick"]
