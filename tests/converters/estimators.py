"""Estimators of scikit-learn, whose import takes 2 s: imported by the tests that use one, not by each process that collects them."""

from __future__ import annotations

from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from tests.converters.graphs import Array

X, Y = load_iris(return_X_y=True)


def unfitted(name: str) -> Any:
    """Return an estimator by its name in test_importers.py."""
    made: dict[str, Any] = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
        "mlp": MLPClassifier((8,), max_iter=300, random_state=0),
        "forest": RandomForestClassifier(20, random_state=0),
        "boosting": make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=5)),
        "histograms": HistGradientBoostingClassifier(max_iter=3),
        "vectors": SVC(probability=True, random_state=0),
        "neighbours": KNeighborsClassifier(),
        "columns": make_pipeline(
            ColumnTransformer([("a", MinMaxScaler(), [0, 1]), ("b", StandardScaler(), [2, 3])]), Ridge()
        ),
    }
    return made[name]


def fitted(name: str, y: Array = Y) -> Any:
    """Return an estimator that has learned from the irises."""
    return unfitted(name).fit(X, y)


def fitted_with(function: Any) -> Any:
    """Return an estimator that holds a function of ours."""
    return make_pipeline(FunctionTransformer(function), Ridge()).fit(X, Y)
