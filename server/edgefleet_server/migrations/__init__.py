"""The database schema in steps, and how to take them.

`upgrade(db)` brings a database to the newest schema; `python -m edgefleet_server.migrations.make "what changed"` writes the next step.
Alembic is imported only where a step is taken: a server nearly always starts on a schema that is the newest one.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from edgefleet_server.db.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(__file__).parent
_LOCATION = str(FOLDER).replace("%", "%%")


def config(db: Database) -> "Config":
    """Return the alembic configuration for a database; there is no ini file."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", _LOCATION)
    made.attributes["database"] = db
    return made


def upgrade(db: Database) -> None:
    """Bring the schema up to date. Blocks; a second process waits (PostgreSQL) or finds it done."""
    if not is_current(db):
        from alembic import command

        command.upgrade(config(db), "head")


def is_current(db: Database) -> bool:
    """Return whether the database has the newest schema."""
    with db.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        return list(connection.scalars(text("SELECT version_num FROM alembic_version"))) == [newest()]


@cache
def newest() -> str:
    """Return the number of the last step that this program knows: its file's name begins with it."""
    return max(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*_*.py"))
