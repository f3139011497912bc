"""Every feature that has tables, in one place: the migrations compare the database with exactly these."""

import importlib
from typing import Final

MODULES: Final = (
    "access.tables",
    "access.accounts.tables",
    "access.identities.tables",
    "encryption.tables",
    "registry.tables",
    "conversion.tables",
    "signing.tables",
    "events.tables",
    "fleet.tables",
    "telemetry.tables",
    "telemetry.signals.tables",
    "telemetry.ground_truth.tables",
    "telemetry.rollups.tables",
    "telemetry.predictions.tables",
    "rollout.store.tables",
    "webhook.tables",
    "objectives.tables",
    "costing.tables",
    "alerting.tables",
    "alerting.active_alerts.tables",
    "alerting.contact_points.tables",
    "retraining.tables",
    "model_cards.tables",
    "governance.release_policies.tables",
)
"""Modules below `edgefleet_server` that declare tables."""


def load() -> None:
    """Import the tables of every feature, so that ``SQLModel.metadata`` is complete."""
    for module in MODULES:
        importlib.import_module(f"edgefleet_server.{module}")
