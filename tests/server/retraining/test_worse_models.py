"""A retrained model that is worse is stopped by its shadow stage; the one that is better passes."""

from __future__ import annotations

from tests.house.soak import SOAKS
from tests.server.retraining import worse_models


def test_no_worse_model_passes_the_shadow_stage() -> None:
    found = worse_models.main(SOAKS["worse-models"].in_ci, seed=1)
    assert found == {"ok": True, "stopped": 2, "decisions": ["RollBack"], "good": "Advance"}
