"""How the server's answer to "why does this device not run what it should" is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.core.api.device import ModelExplanation


WHY: Sheet[ModelExplanation] = Sheet(
    "models on this device",
    [
        Column("model", lambda w: text(w.model), keep=True),
        Column("should run", lambda w: text(w.wanted)),
        Column("runs", lambda w: text(w.running)),
        Column("why", lambda w: text(w.why)),
        Column("next", lambda w: text(w.next)),
        Column("rollout", lambda w: text(w.rollout), wide=True),
    ],
    lambda w: text(w.model),
)
