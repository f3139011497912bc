"""What the API takes and answers: frozen structs, one module a resource, loaded when a command first names it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefleet_cli.core.api import (
        access,
        alert,
        bundle,
        capture,
        cost,
        device,
        enrollment,
        experiment,
        fleet,
        key,
        model,
        release,
        rollout,
        task,
        webhook,
    )

__all__ = [
    "access",
    "alert",
    "bundle",
    "capture",
    "cost",
    "device",
    "enrollment",
    "experiment",
    "fleet",
    "key",
    "model",
    "release",
    "rollout",
    "task",
    "webhook",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(name)
        return import_module(f"{__name__}.{name}")
