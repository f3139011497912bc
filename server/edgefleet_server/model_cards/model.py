"""Values of model cards. The dataclasses are bodies of routes: their fields are public. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class FactOrigin(StrEnum):
    """Where a fact of a card comes from. Public: never renamed."""

    MEASURED = "measured"
    RECORDED = "recorded"
    STATED = "stated"
    NOT_MEASURED = "not_measured"
    NOT_STATED = "not_stated"


@dataclass(frozen=True)
class Fact:
    """One line of a card. origin: measured by edgefleet, recorded by it, stated by a person, or missing."""

    name: str
    value: str
    origin: FactOrigin


@dataclass(frozen=True)
class CardSection:
    """A part of a card. title: stable, so that it can be looked for."""

    title: str
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Statement:
    """What people state of a release. of: the release that it was stated of, the parent where nothing newer was; by "" = nobody."""

    summary: str = ""
    owner: str = ""
    contact: str = ""
    licence: str = ""
    intended_use: str = ""
    not_for: str = ""
    limits: Sequence[str] = ()
    data: str = ""
    references: Sequence[str] = ()
    of: str = ""
    by: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class ModelCard:
    """The card of a release, as it stands now.

    importance: as the conversion's report has it. bundles: metric and sizes by profile, for programs; `sections` say the same in words.
    """

    ref: str
    made_at: datetime
    stated: Statement
    sections: Sequence[CardSection]
    importance: Mapping[str, Any] = field(default_factory=dict)
    bundles: Sequence[Mapping[str, Any]] = ()
    hold_out: int = 0
    """Samples that no choice has seen."""
