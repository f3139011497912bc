"""The database schema in steps, and how to take them.

`upgrade(db)` brings a database to the newest schema; `python -m edgefleet_server.migrations.make "what changed"` writes the next step.
"""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgefleet_server.db import Database

FOLDER = Path(__file__).parent
_LOCATION = str(FOLDER).replace("%", "%%")


def config(db: Database) -> Config:
    """Return the alembic configuration for a database; there is no ini file."""
    made = Config()
    made.set_main_option("script_location", _LOCATION)
    made.attributes["database"] = db
    return made


def upgrade(db: Database) -> None:
    """Bring the schema up to date. Blocks; a second process waits (PostgreSQL) or finds it done."""
    if not is_current(db):
        command.upgrade(config(db), "head")


def is_current(db: Database) -> bool:
    """Return whether the database has the newest schema."""
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == _newest()


@cache
def _newest() -> str | None:
    """Return the number of the last step that this program knows."""
    made = Config()
    made.set_main_option("script_location", _LOCATION)
    return ScriptDirectory.from_config(made).get_current_head()
