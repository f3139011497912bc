"""A release next to its parent: the interval covers what it should, and a conversion asks both the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefleet_converters.accuracy.parent_comparison import interval_of, row_of
from edgefleet_terms.parent_verdict import comparison_text, read_comparison
from tests.converters.graphs import classifier, data_for, run, samples, save


@pytest.mark.parametrize(
    ("n", "better", "worse"), [(30, 0.1, 0.1), (60, 0.02, 0.15), (200, 0.05, 0.05), (500, 0.01, 0.02)]
)
def test_nineteen_of_twenty_intervals_of_classes_hold_the_true_gain(n: int, better: float, worse: float) -> None:
    chance = np.random.default_rng(7)
    held = 0
    for gains in chance.choice([1.0, -1.0, 0.0], size=(3000, n), p=[better, worse, 1 - better - worse]):
        _, low, high = interval_of(gains, is_class=True)
        held += low <= better - worse <= high
    assert held / 3000 >= 0.94


@pytest.mark.parametrize("n", [30, 300])
def test_nineteen_of_twenty_intervals_of_numbers_hold_the_true_gain(n: int) -> None:
    gains = np.random.default_rng(7).normal(-0.3, 2.0, size=(3000, n))
    found = [interval_of(row, is_class=False) for row in gains]
    assert np.mean([low <= -0.3 <= high for _, low, high in found]) >= 0.94


def test_two_that_answer_alike_differ_by_nothing() -> None:
    same = np.array([0.0, 1.0] * 50)
    row = row_of("top1", "y", same, same, given=100)
    assert (row.value, row.parent, row.gain) == (0.5, 0.5, 0.0)
    assert row.low < 0 < row.high


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_not_compared(odd: float) -> None:
    row = row_of("mae", "y", np.ones(40), np.append(np.ones(39), odd), given=40)
    assert "no finite number" in row.why
    assert row.n == 0


def test_a_conversion_says_by_how_much_it_is_worse_than_its_parent(tmp_path: Path) -> None:
    parent = classifier()
    x, y = data_for(parent, 300)
    data = {"eval": samples(tmp_path, x=x, y=y), "parent": str(save(parent, tmp_path, "parent.onnx"))}
    report, _ = run(save(classifier(seed=1), tmp_path), tmp_path / "out", data=data, precision="fp32", accept_data=True)
    found = read_comparison(report.comparison)
    assert (found.parent, found.is_worse, found.n, found.given) == (1.0, True, 300, 300)
    assert found.value == pytest.approx(1 + found.gain)
    assert "points worse" in comparison_text(found)


@pytest.mark.parametrize("classes", [3, 0])
def test_what_cannot_be_asked_the_same_is_said(classes: int, tmp_path: Path) -> None:
    x, y = data_for(classifier(), 40)
    parent = save(classifier(classes=classes), tmp_path, "parent.onnx") if classes else tmp_path / "parent.onnx"
    if not classes:
        parent.write_bytes(b"no model")
    data = {"eval": samples(tmp_path, x=x, y=y), "parent": str(parent)}
    report, _ = run(save(classifier(), tmp_path), tmp_path / "out", data=data, precision="fp32")
    assert report.bundles
    words = "the parent has no output scores of the same shape" if classes else "the parent cannot be asked"
    assert words in comparison_text(read_comparison(report.comparison))
