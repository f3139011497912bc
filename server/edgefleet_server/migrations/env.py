"""Alembic's environment: runs the steps on the engine of :class:`edgefleet_server.db.database.Database`."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import text
from sqlmodel import SQLModel

from edgefleet_server.db.database import Database, UtcDateTime

_LOCK_KEY = 0x65_66_6D_69_67  # one number for "a migration runs" among PostgreSQL's advisory locks


def _render(kind: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write our types and SQLModel's strings as plain SQLAlchemy types, so that old steps outlive our modules."""
    if kind != "type":
        return False
    if isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if type(item).__name__ == "AutoString":
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    return False


def _run() -> None:
    db = context.config.attributes["database"]
    assert isinstance(db, Database)
    with db.engine.connect() as connection:
        if not db.is_sqlite:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,  # for a step its naming convention; who compares loads the tables into it
            render_as_batch=db.is_sqlite,
            render_item=_render,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
        if not db.is_sqlite:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
            connection.commit()


_run()
