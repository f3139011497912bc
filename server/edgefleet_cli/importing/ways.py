"""What every source is fetched with: limits, clock, environment, and who hears how it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgefleet_cli.clock import SystemClock
from edgefleet_cli.importing.fetched import Budget


@dataclass(frozen=True)
class Ways:
    """For one import. environ: the environment of the command; mlflow_url: of the registry, "" for that of the environment."""

    budget: Budget
    clock: SystemClock
    tell: Callable[[str], None]
    environ: Mapping[str, str]
    mlflow_url: str = ""
