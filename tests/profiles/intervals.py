"""How often the truth lies within the stated error, at the full count: simulated fleets, each asked of one more model."""

import random
from collections.abc import Mapping
from statistics import median
from typing import Any

import edgefleet_profiles
from edgefleet_profiles.cost.model import QUANTITIES, Figure, fit_profile, predict
from edgefleet_profiles.cost.regression import LEVEL
from tests.profiles.simulated import example, model_work, subject, true_figures

PI = edgefleet_profiles.load("raspberry-pi-4-ort")
MODELS = (2, 3, 4, 5, 8, 12, 24)
SLACK = 0.05
"""A quantile of so few errors is itself uncertain: with two to four models the share wanders by some percent."""


def trials(models: int, count: int, seed: int = 1, quantity: str = QUANTITIES[0]) -> list[tuple[Figure, float]]:
    """Return (predicted, true) of `count` fleets with reports on `models` models, each asked of one more model."""
    told = []
    for number in range(count):
        chance = random.Random(f"{seed}/{models}/{number}")
        cost = fit_profile(PI.name, [example(chance) for _ in range(models)])
        work = model_work(chance)
        figure: Figure | None = getattr(predict(PI, subject(work, chance), cost, []), quantity)
        if figure is not None:
            told.append((figure, true_figures(work, chance)[QUANTITIES.index(quantity)]))
    return told


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Return the share within the interval and the median errors for each number of models; `ok` when all shares hold."""
    rows = {}
    for models in MODELS:
        for quantity in QUANTITIES:
            told = trials(models, n, seed, quantity)
            rows[f"{models} models, {quantity}"] = {
                "asked": n, "predicted": len(told),
                "within": round(sum(figure.low <= true <= figure.high for figure, true in told) / len(told), 4),
                "stated_error": round(median(figure.error for figure, _ in told), 4),
                "error": round(median(abs(figure.value / true - 1) for figure, true in told), 4),
            }  # fmt: skip
    return {"ok": all(row["within"] >= LEVEL - SLACK for row in rows.values()), "level": LEVEL, "rows": rows}
