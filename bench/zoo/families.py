"""Entries of scikit-learn's families, fitted here and written as ONNX by skl2onnx."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.zoo import samples
from bench.zoo.entry import Draw, Entry, Samples

_ROWS = 2500


def _flat_digits(task: int, n: int, seed: int) -> Samples:
    """Return scikit-learn's scanned digits as 64 numbers, with noise."""
    return samples.digits(task, n, seed, flat=True)


def _spectra(task: int, n: int, seed: int) -> Samples:
    """Return vibration spectra, one in ten of a machine with other harmonics."""
    good, bad = samples.spectra(task, n, seed, bins=48), samples.spectra(task + 1, n, seed + 1, bins=48)
    rows = good.inputs["x"].copy()
    rows[::10] = bad.inputs["x"][::10]
    return Samples({"x": rows})


def fit(make: Callable[[], Any], draw: Draw, seed: int, folder: Path, *, rows: int = _ROWS) -> Path:
    """Fit an estimator on drawn samples and return its ONNX file."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    part = draw(seed, rows, seed + 1)
    x, y = part.inputs["x"], part.truth.get("y")
    estimator = make()
    if hasattr(estimator, "random_state"):
        estimator.random_state = seed % 2**31
    estimator.fit(x) if y is None else estimator.fit(x, y)
    options: dict[Any, Any] = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else {}
    out = folder / "model.onnx"
    types = [("x", FloatTensorType([None, x.shape[1]]))]
    made = to_onnx(estimator, initial_types=types, options=options, target_opset={"": 17, "ai.onnx.ml": 3})
    out.write_bytes(made.SerializeToString())
    return out


def _family(
    name: str, task: str, make: Callable[[], Any], draw: Draw, metric: str = "top1", *, labelled: bool = True
) -> Entry:
    data = " ".join((draw.__doc__ or "").split(".")[0].split())
    return Entry(
        f"sklearn-{name}", f"scikit-learn {name}", task, data, metric, 0.01, "fitted here by scikit-learn, skl2onnx", "Apache-2.0",
        functools.partial(fit, make, draw), draw, (100, 300, 1000), labelled,
    )  # fmt: skip


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300)


def _mlp() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(hidden_layer_sizes=(128, 64), max_iter=40)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(60, max_depth=10)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=30, max_depth=3)


def _boosted_targets() -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(40, max_depth=9)


def _svm() -> Any:
    from sklearn.svm import SVC

    return SVC(C=3.0)


def _neighbours() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(5)


def _isolation() -> Any:
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=60, contamination=0.1)


def _pipeline() -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), PCA(12), LogisticRegression(max_iter=300))


def _polynomial() -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    return make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge(3.0))


FAMILIES: tuple[Entry, ...] = (
    _family("logistic", "handwritten digits", _logistic, _flat_digits),
    _family("mlp", "handwritten digits", _mlp, _flat_digits),
    _family("forest", "handwritten digits", _forest, _flat_digits),
    _family("boosting", "classes of table rows", _boosting, samples.tabular_classes),
    _family("svm", "handwritten digits", _svm, _flat_digits),
    _family("knn", "handwritten digits", _neighbours, _flat_digits),
    _family("isolation-forest", "faults of a machine", _isolation, _spectra, labelled=False),
    _family("pipeline", "classes of table rows", _pipeline, samples.tabular_classes),
    _family("trees-targets", "three targets of different scales", _boosted_targets, samples.tabular_targets, "spread"),
    _family("polynomial", "three targets of different scales", _polynomial, samples.tabular_targets, "spread"),
)
