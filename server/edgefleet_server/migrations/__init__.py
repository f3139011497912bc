"""The database schema in steps, and how to take them.

`pending(db)` lists the steps that a database lacks, `upgrade(db)` takes them.
`python -m edgefleet_server.migrations.make "what changed"` writes the next step.
Alembic is imported only where a step is taken: a server nearly always starts on a schema that is the newest one.

Steps are numbered from 1001. Databases of before 0.1.0 have the steps 0001 to 0022, which are gone: they are refused, as are those of
a newer program.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.db.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(__file__).parent
_LOCATION = str(FOLDER).replace("%", "%%")
FILLING = "filling-"
"""How the step of a database begins that `edgectl server restore` or `migrate` fills just now."""


class SchemaUnsupportedError(EdgefleetError):
    """The database has a schema that this program cannot read."""

    code = "server.schema_unsupported"


class DatabaseUnfinishedError(EdgefleetError):
    """A restore or a migration into this database has not finished."""

    code = "server.database_unfinished"


class DatabaseMovedError(EdgefleetError):
    """The server that used this database has moved to another one."""

    code = "server.database_moved"


@dataclass(frozen=True, slots=True)
class SchemaStep:
    """One step of the schema. number: "1001" is the first; name: the words of its file's name."""

    number: str
    name: str


@dataclass(frozen=True, slots=True)
class UpgradeWatch:
    """What is called while a schema is brought up to date."""

    waits: Callable[[], None]
    """Another process is at it: this one waits until that has ended."""
    taken: Callable[[str], None]
    """A step, by its number, was taken."""


def config(db: Database, watch: UpgradeWatch | None = None) -> "Config":
    """Return the alembic configuration for a database; there is no ini file."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", _LOCATION)
    made.attributes["database"] = db
    made.attributes["watch"] = watch or UpgradeWatch(waits=lambda: None, taken=lambda _step: None)
    return made


def upgrade(db: Database, watch: UpgradeWatch | None = None) -> None:
    """Bring the schema up to date. Blocks: a second process waits until the first has ended, and finds it done.

    Raises SchemaUnsupportedError, SQLAlchemyError.
    """
    if not is_current(db):
        from alembic import command

        command.upgrade(config(db, watch), "head")


def pending(db: Database) -> list[SchemaStep]:
    """Return the steps that a database lacks, in the order in which `upgrade` takes them. Raises as `is_current`."""
    _check_moved(db)
    with db.engine.connect() as connection:
        at = check_known(connection)
    return [step for step in steps() if step.number > at]


def steps() -> list[SchemaStep]:
    """Return all steps that this program knows, the oldest first: each leads from the one before to its own number."""
    return [SchemaStep(number, name.replace("_", " ")) for number, name in sorted(_known().items())]


def upgrade_to(db: Database, step: str) -> None:
    """Bring an empty database to a step that this program knows. Raises SchemaUnsupportedError."""
    if step not in _known():
        raise _refusal(step)
    from alembic import command

    command.upgrade(config(db), step)


def is_current(db: Database) -> bool:
    """Return whether the database has the newest schema.

    Raises SchemaUnsupportedError where it has one that no step here leads to, DatabaseUnfinishedError, DatabaseMovedError.
    """
    _check_moved(db)
    with db.engine.connect() as connection:
        return check_known(connection) == newest()


def check_known(connection: Connection) -> str:
    """Return the number of a database's schema, "" when it has no tables yet.

    Raises SchemaUnsupportedError where no step here leads to it, DatabaseUnfinishedError.
    """
    if not inspect(connection).has_table("alembic_version"):
        return ""
    taken = list(connection.scalars(text("SELECT version_num FROM alembic_version")))
    for step in taken:
        if step not in _known():
            raise _refusal(step)
    return max(taken, default="")


def newest() -> str:
    """Return the number of the last step that this program knows: its file's name begins with it."""
    return max(_known())


def moved_mark(db: Database) -> Path | None:
    """Return the file that says that the server of a file of SQLite has moved; None on PostgreSQL and in memory."""
    file = db.engine.url.database if db.is_sqlite else None
    return Path(f"{file}.moved") if file and file != ":memory:" else None


def _check_moved(db: Database) -> None:
    mark = moved_mark(db)
    if mark is not None and mark.exists():
        raise DatabaseMovedError(
            f"this server has moved to another database: {mark.read_text(encoding='utf-8').strip()}",
            next_step=f"start it with that database; to use this one again, without what came since, remove {mark}",
        )


def _refusal(step: str) -> EdgefleetError:
    if step.startswith(FILLING):
        return DatabaseUnfinishedError(
            "a restore or a migration into this database has not finished",
            next_step="run that command again: it goes on; or drop the database and create it again",
        )
    if step < min(_known()):
        return SchemaUnsupportedError(
            f"the database has schema {step}, of an edgefleet before 0.1.0, and this program reads none older than {min(_known())}",
            next_step="create a new server with an empty database, `edgectl server init DIR`, and enrol the devices again",
        )
    return SchemaUnsupportedError(
        f"the database has schema {step}, and the newest that this program knows is {newest()}",
        next_step="start it with the edgefleet that used it last, or restore the backup from before that one was installed",
    )


@cache
def _known() -> Mapping[str, str]:
    """Return the names of all steps by their numbers."""
    found = (path.stem.partition("_") for path in (FOLDER / "versions").glob("[0-9]*_*.py"))
    return {number: name for number, _, name in found}
