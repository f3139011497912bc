"""A retrained model that is worse is stopped before any device, and by its shadow stage; the one that is better passes both."""

from __future__ import annotations

from tests.house.soak import SOAKS
from tests.server.retraining import worse_models


def test_no_worse_model_passes() -> None:
    found = dict(worse_models.main(SOAKS["worse-models"].in_ci, seed=1))
    assert "worse" not in found.pop("good_next_to_its_parent")
    assert found == {
        "ok": True,
        "stopped": 2,
        "stopped_before_devices": 2,
        "decisions": ["RollBack"],
        "good": "Advance",
    }
