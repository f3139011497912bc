"""The triggers of step 1001 that keep `fleet_label` like `fleet_device.labels` (ADR 0054)."""

from alembic import op

_SQLITE = (
    """
    CREATE TRIGGER fleet_label_insert AFTER INSERT ON fleet_device BEGIN
        INSERT INTO fleet_label (device_id, key, value)
        SELECT NEW.id, label.key, label.value FROM json_each(NEW.labels) AS label;
    END
    """,
    """
    CREATE TRIGGER fleet_label_update AFTER UPDATE OF labels ON fleet_device WHEN OLD.labels IS NOT NEW.labels BEGIN
        DELETE FROM fleet_label WHERE device_id = NEW.id;
        INSERT INTO fleet_label (device_id, key, value)
        SELECT NEW.id, label.key, label.value FROM json_each(NEW.labels) AS label;
    END
    """,
    """
    CREATE TRIGGER fleet_label_delete AFTER DELETE ON fleet_device BEGIN
        DELETE FROM fleet_label WHERE device_id = OLD.id;
    END
    """,
)
_POSTGRESQL = (
    """
    CREATE FUNCTION fleet_label_keep() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            DELETE FROM fleet_label WHERE device_id = OLD.id;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO fleet_label (device_id, key, value)
            SELECT NEW.id, label.key, label.value FROM json_each_text(NEW.labels) AS label;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER fleet_label_insert AFTER INSERT OR DELETE ON fleet_device
    FOR EACH ROW EXECUTE FUNCTION fleet_label_keep()
    """,
    """
    CREATE TRIGGER fleet_label_update AFTER UPDATE OF labels ON fleet_device
    FOR EACH ROW WHEN (OLD.labels::text IS DISTINCT FROM NEW.labels::text) EXECUTE FUNCTION fleet_label_keep()
    """,
)


def create() -> None:
    """Make the triggers, and on PostgreSQL the function that they call."""
    for statement in _SQLITE if _is_sqlite() else _POSTGRESQL:
        op.execute(statement)


def drop() -> None:
    """Drop what is left of them when the table `fleet_device` is gone."""
    if not _is_sqlite():
        op.execute("DROP FUNCTION fleet_label_keep()")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
