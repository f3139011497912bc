"""Every feature that has tables, in one place: the migrations compare the database with exactly these."""

import importlib

FEATURES_WITH_TABLES = (
    "access",
    "registry",
    "conversion",
    "signing",
    "fleet",
    "telemetry",
    "rollout",
    "webhook",
    "alerting",
)


def load() -> None:
    """Import ``tables`` of every feature, so that ``SQLModel.metadata`` is complete."""
    for feature in FEATURES_WITH_TABLES:
        importlib.import_module(f"edgefleet_server.{feature}.tables")
