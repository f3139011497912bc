"""Add what a search of devices looks through: one narrow row a device, kept by triggers (ADR 0164)."""

import sqlalchemy as sa
from alembic import op

revision = "1046"
down_revision = "1045"
branch_labels = None
depends_on = None

_SQLITE_FILL = """
    INSERT INTO fleet_search_text (device_id, names, labels)
    SELECT {row}.id, {row}.id || char(10) || lower({row}.display_name),
        (SELECT coalesce(group_concat(lower(label.value), char(10)), '') FROM json_each({row}.labels) AS label)
"""
_POSTGRESQL_FILL = """
    INSERT INTO fleet_search_text (device_id, names, labels)
    SELECT {row}.id, {row}.id || chr(10) || lower({row}.display_name),
        (SELECT coalesce(string_agg(lower(label.value), chr(10)), '') FROM json_each_text({row}.labels) AS label)
"""
_SQLITE = (
    """
    CREATE TRIGGER fleet_search_text_insert AFTER INSERT ON fleet_device BEGIN
        FILL;
    END
    """,
    """
    CREATE TRIGGER fleet_search_text_update AFTER UPDATE OF labels, display_name ON fleet_device
    WHEN OLD.labels IS NOT NEW.labels OR OLD.display_name IS NOT NEW.display_name BEGIN
        DELETE FROM fleet_search_text WHERE device_id = OLD.id;
        FILL;
    END
    """,
    """
    CREATE TRIGGER fleet_search_text_delete AFTER DELETE ON fleet_device BEGIN
        DELETE FROM fleet_search_text WHERE device_id = OLD.id;
    END
    """,
)
_POSTGRESQL = (
    """
    CREATE FUNCTION fleet_search_text_keep() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            DELETE FROM fleet_search_text WHERE device_id = OLD.id;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            FILL;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER fleet_search_text_insert AFTER INSERT OR DELETE ON fleet_device
    FOR EACH ROW EXECUTE FUNCTION fleet_search_text_keep()
    """,
    """
    CREATE TRIGGER fleet_search_text_update AFTER UPDATE OF labels, display_name ON fleet_device
    FOR EACH ROW WHEN (OLD.labels::text IS DISTINCT FROM NEW.labels::text OR OLD.display_name <> NEW.display_name)
    EXECUTE FUNCTION fleet_search_text_keep()
    """,
)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working. It reads each device once."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "fleet_search_text",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_fleet_search_text")),
        sqlite_with_rowid=False,
    )
    fill = _SQLITE_FILL if is_sqlite else _POSTGRESQL_FILL
    for statement in _SQLITE if is_sqlite else _POSTGRESQL:
        op.execute(statement.replace("FILL", fill.format(row="NEW")))
    op.execute(fill.format(row="fleet_device") + " FROM fleet_device")


def downgrade() -> None:
    """Take the step back."""
    if op.get_bind().dialect.name == "sqlite":
        for name in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER fleet_search_text_{name}")
    else:
        for name in ("insert", "update"):
            op.execute(f"DROP TRIGGER fleet_search_text_{name} ON fleet_device")
        op.execute("DROP FUNCTION fleet_search_text_keep()")
    op.drop_table("fleet_search_text")
