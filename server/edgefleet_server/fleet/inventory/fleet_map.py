"""The whole fleet as one letter a device, in groups: for the map of the overview, and for counts of health that do not grow with a page.

Rules:
1. The database writes the letters: one text of letters and one of ids a group, in the order of ids, so that 100,000 devices cost this
   process no loop. Only live devices are in it.
2. What was read is kept until a device reports something new (`db.read_cache`): of a large fleet no page waits for it but the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final
from zlib import crc32

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlmodel import col

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.db.read_cache import KeptReadings
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.fleet.inventory.device_health import SITE
from edgefleet_server.fleet.selectors import health_condition, sql
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel, FleetModelState

MOST_KEPT: Final = 24
LETTERS: Final[Mapping[Health, str]] = {
    Health.HEALTHY: "h",
    Health.DEGRADED: "d",
    Health.FAILING: "f",
    Health.UPDATING: "u",
    Health.OFFLINE: "o",
    Health.UNKNOWN: "n",
}
NO_VERSION: Final = "-"


class Grouping(StrEnum):
    """By what devices are put together. Public: part of addresses."""

    SITE = "site"
    MODEL = "model"
    PROFILE = "profile"


@dataclass(frozen=True, slots=True)
class MapQuestion:
    """What the letters say and how devices are grouped. versions: (model, version, letter) that a device may run; none: its health."""

    by: Grouping = Grouping.SITE
    versions: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class MapGroup:
    """Devices of one group: a letter each, and their ids in the same order, as one text. name: "" for those of none."""

    name: str
    letters: str
    ids: str

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many devices have each letter."""
        return {letter: self.letters.count(letter) for letter in sorted(set(self.letters))}

    @property
    def devices(self) -> int:
        """How many there are."""
        return len(self.letters)

    def named(self, start: int, count: int) -> list[str]:
        """Return the ids of devices from a place on."""
        return self.ids.split(" ")[start : start + count] if self.letters else []


@dataclass(frozen=True, slots=True)
class FleetMap:
    """The fleet at one moment. In groups by model a device that runs several is in several. version: another one where it changed."""

    groups: Sequence[MapGroup]
    version: str

    def counts(self) -> Mapping[str, int]:
        """Return how many squares have each letter."""
        found: dict[str, int] = {}
        for group in self.groups:
            for letter, n in group.counts.items():
                found[letter] = found.get(letter, 0) + n
        return found


class FleetMapper:
    """Reads the map. Thread-safe; calls block for the first answer to a question, and where reading is quick."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._kept = KeptReadings(clock, self._read, MOST_KEPT)
        self._reports = 0

    def forget(self) -> None:
        """Read again when asked next: a device reported something. Called in the thread that committed it; waits for nothing."""
        self._reports += 1

    def read(self, asked: MapQuestion) -> FleetMap:
        """Return the fleet as letters."""
        return self._kept.get(asked, self._reports)

    def health(self) -> Mapping[Health, int]:
        """Return how many live devices there are of each health."""
        counts = self.read(MapQuestion()).counts()
        return {health: counts.get(letter, 0) for health, letter in LETTERS.items()}

    def _read(self, asked: MapQuestion) -> FleetMap:
        with self._db.read() as session:
            is_sqlite = session.get_bind().dialect.name == "sqlite"
            rows = session.connection().execute(_statement(asked, is_sqlite=is_sqlite)).all()
        groups = sorted((MapGroup(str(name), letters, ids) for name, letters, ids in rows), key=_place)
        digest = 0
        for one in groups:
            digest = crc32(f"{one.name} {one.letters} {one.ids} ".encode(), digest)
        return FleetMap(groups, f"{digest:08x}")


def _place(group: MapGroup) -> tuple[bool, str]:
    return not group.name, group.name


def _statement(asked: MapQuestion, *, is_sqlite: bool) -> Select[Any]:
    group, own = _group_of(asked.by), col(FleetDevice.id)
    letter = _version_letter(asked) if asked.versions else _health_letter()
    rows = select(group.label("grp"), letter.label("letter"), own.label("id")).select_from(FleetDevice)
    if asked.by is Grouping.SITE:
        label = FleetLabel
        rows = rows.outerjoin(label, and_(col(label.device_id) == own, col(label.key) == SITE))
    elif asked.by is Grouping.MODEL:
        rows = rows.outerjoin(FleetModelState, and_(col(FleetModelState.device_id) == own, _version() != ""))
    inner = rows.where(sql.is_live()).order_by(own).subquery()
    c = inner.c
    if is_sqlite:
        texts = (func.group_concat(c.letter, ""), func.group_concat(c.id, " "))
    else:
        texts = (
            func.string_agg(c.letter, aggregate_order_by(literal(""), c.id)),
            func.string_agg(c.id, aggregate_order_by(literal(" "), c.id)),
        )
    return select(c.grp, *texts).group_by(c.grp)


def _group_of(by: Grouping) -> ColumnElement[str]:
    match by:
        case Grouping.SITE:
            return func.coalesce(col(FleetLabel.value), "")
        case Grouping.MODEL:
            return func.coalesce(col(FleetModelState.model), "")
        case Grouping.PROFILE:
            return col(FleetDevice.profile)  # type: ignore[return-value]


def _version() -> Any:
    return col(FleetModelState.version)


def _health_letter() -> Any:
    word = health_condition.health_word()
    return case({health.value: letter for health, letter in LETTERS.items()}, value=word, else_=LETTERS[Health.UNKNOWN])


def _version_letter(asked: MapQuestion) -> Any:
    """Return the letter of the version that a device runs: of the row of its group's model, else of the only model that is asked for."""
    if asked.by is Grouping.MODEL:
        model, version = col(FleetModelState.model), _version()
        cases = [(and_(model == name, version == one), literal(letter)) for name, one, letter in asked.versions]
        return case(*cases, else_=NO_VERSION)
    state = FleetModelState
    names = {name for name, _, _ in asked.versions}
    letters = case({one: letter for _, one, letter in asked.versions}, value=col(state.version), else_=NO_VERSION)
    found = select(letters).where(col(state.device_id) == col(FleetDevice.id), col(state.model).in_(names)).limit(1)
    return func.coalesce(found.scalar_subquery(), NO_VERSION)
