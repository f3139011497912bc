"""Labels as rows that triggers keep, and the indexes and figures that lists of devices are read by."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None

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


_FILL_SQLITE = """
    INSERT INTO fleet_label (device_id, key, value)
    SELECT device.id, label.key, label.value FROM fleet_device AS device, json_each(device.labels) AS label
"""
_FILL_POSTGRESQL = _FILL_SQLITE.replace("json_each", "json_each_text")


def upgrade() -> None:
    """Take the step."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "fleet_label",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=127), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "key", name=op.f("pk_fleet_label")),
    )
    op.execute(_FILL_SQLITE if is_sqlite else _FILL_POSTGRESQL)
    op.create_index("ix_fleet_label_key", "fleet_label", ["key", "value", "device_id"])
    op.create_index("ix_fleet_label_value", "fleet_label", ["value", "device_id"])
    op.drop_index("ix_fleet_device_profile", "fleet_device")
    op.create_index("ix_fleet_device_profile", "fleet_device", ["profile", "id"])
    op.create_index("ix_fleet_device_presence", "fleet_device", ["revoked_at", "is_online", "id"])
    op.create_index("ix_fleet_device_last_seen", "fleet_device", ["last_seen", "id"])
    op.create_index("ix_fleet_device_live_profile", "fleet_device", ["revoked_at", "profile"])
    op.create_index(
        "ix_fleet_model_state_version", "fleet_model_state", ["model", "version", "device_id", "assignment"]
    )
    op.create_index("ix_fleet_model_state_assignment", "fleet_model_state", ["assignment", "changed_at"])
    op.add_column("telemetry_window", sa.Column("latency_p95_ms", sa.Float(), nullable=True))
    for statement in _SQLITE if is_sqlite else _POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    """Take the step back."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    on = "" if is_sqlite else " ON fleet_device"
    for name in ("insert", "update", *(("delete",) if is_sqlite else ())):
        op.execute(f"DROP TRIGGER fleet_label_{name}{on}")
    if not is_sqlite:
        op.execute("DROP FUNCTION fleet_label_keep()")
    with op.batch_alter_table("telemetry_window", schema=None) as batch_op:
        batch_op.drop_column("latency_p95_ms")
    op.drop_index("ix_fleet_model_state_assignment", "fleet_model_state")
    op.drop_index("ix_fleet_model_state_version", "fleet_model_state")
    op.drop_index("ix_fleet_device_live_profile", "fleet_device")
    op.drop_index("ix_fleet_device_last_seen", "fleet_device")
    op.drop_index("ix_fleet_device_presence", "fleet_device")
    op.drop_index("ix_fleet_device_profile", "fleet_device")
    op.create_index("ix_fleet_device_profile", "fleet_device", ["profile"])
    op.drop_table("fleet_label")
