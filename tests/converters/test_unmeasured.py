"""Without data nothing is claimed and nothing small is offered; with data the figures are those of samples that no choice has seen."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgefleet_converters.report import UNPROVEN
from tests.converters.graphs import changed, classifier, data_for, run, samples, save


def test_auto_offers_floats_only_where_nothing_was_measured(tmp_path: Path) -> None:
    report, _ = run(save(classifier(features=64), tmp_path), tmp_path / "out")
    (row,) = report.profiles
    assert {one.precision for one in row.candidates} <= {"fp32", "fp16"}
    assert report.bundles[0].verdict == UNPROVEN
    assert not report.bundles[0].metric.is_measured
    assert report.bundles[0].metric.bound is None


def test_a_smaller_precision_is_offered_to_those_that_name_it(tmp_path: Path) -> None:
    report, _ = run(save(classifier(features=64), tmp_path), tmp_path / "out", precision="dynamic")
    assert (report.bundles[0].precision, report.bundles[0].verdict) == ("dynamic", UNPROVEN)


def test_a_profile_of_int8_alone_asks_for_data(tmp_path: Path) -> None:
    quant = changed("generic-x86_64-ort").quant
    profile = changed("generic-x86_64-ort", quant=msgspec.structs.replace(quant, mode="required"))
    report, _ = run(save(classifier(), tmp_path), tmp_path / "out", [profile])
    (refused,) = report.refused
    assert "nobody can say" in refused.reason
    assert "--calibration" in refused.next


def test_the_figures_of_a_bundle_are_those_of_the_hold_out(tmp_path: Path) -> None:
    model = classifier(features=64)
    x, y = data_for(model, 400)
    report, _ = run(save(model, tmp_path), tmp_path / "out", data={"eval": samples(tmp_path, x=x, y=y)})
    (bundle,) = report.bundles
    assert (bundle.metric.n, report.data["judging_samples"], report.data["hold_out_samples"]) == (200, 200, 200)
    assert bundle.metric.data == "evaluation data, a part that no choice has seen"
    assert bundle.metric.bound is not None
    assert 0.95 < bundle.metric.bound < bundle.metric.value
    wrong = y.copy()
    wrong[report.data["hold_out_rows"][:8]] += 1
    wrong %= y.max() + 1
    again, _ = run(
        save(model, tmp_path), tmp_path / "again", data={"eval": samples(tmp_path, "wrong.npz", x=x, y=wrong)}
    )
    assert again.bundles[0].metric.baseline == pytest.approx(bundle.metric.baseline - 8 / 200), (
        "the report names its rows"
    )


def test_a_handful_of_samples_has_no_hold_out_and_no_bound(tmp_path: Path) -> None:
    model = classifier(features=64)
    x, y = data_for(model, 6)
    report, _ = run(
        save(model, tmp_path), tmp_path / "out", data={"eval": samples(tmp_path, x=x, y=y)}, precision="fp32"
    )
    assert (report.data["hold_out_samples"], report.bundles[0].metric.bound) == (0, None)
    assert np.isfinite(report.bundles[0].metric.value)
