"""Alembic's environment: runs the steps on the engine of :class:`edgefleet_server.db.database.Database`."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import text
from sqlmodel import SQLModel

from edgefleet_server.db.database import Database, UtcDateTime
from edgefleet_server.migrations import UpgradeWatch, check_known
from edgefleet_server.migrations.schema_lock import schema_lock

_TABLE_WAIT_MS = 15_000
"""How long a step waits for a table that a running server uses: meanwhile, others wait behind it."""


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
    db, watch = context.config.attributes["database"], context.config.attributes["watch"]
    assert isinstance(db, Database)
    assert isinstance(watch, UpgradeWatch)
    with db.engine.connect() as connection, schema_lock(db, connection, watch.waits):
        check_known(connection)  # another process may have taken steps since it was looked at
        connection.rollback()
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,  # for a step its naming convention; who compares loads the tables into it
            render_as_batch=db.is_sqlite,
            render_item=_render,
            compare_type=True,
            on_version_apply=lambda step, **_: watch.taken(str(step.up_revision_id)),
        )
        with context.begin_transaction():
            if not db.is_sqlite:
                connection.execute(text(f"SET LOCAL lock_timeout = {_TABLE_WAIT_MS}"))
            context.run_migrations()
        connection.commit()


_run()
