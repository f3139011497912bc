"""Captured records: the key that they are sealed to, fetches, and the records."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "fleet_capture_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_capture_key")),
    )
    op.create_table(
        "telemetry_capture",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("record", sa.String(length=32), nullable=False),
        sa.Column("fetch_id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("trace_id", sa.String(length=64), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "record", name=op.f("pk_telemetry_capture")),
    )
    with op.batch_alter_table("telemetry_capture", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_telemetry_capture_fetch_id"), ["fetch_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_telemetry_capture_received_at"), ["received_at"], unique=False)

    op.create_table(
        "telemetry_capture_fetch",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.Column("received", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_by", sa.String(length=120), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_capture_fetch")),
    )
    with op.batch_alter_table("telemetry_capture_fetch", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_telemetry_capture_fetch_asked_at"), ["asked_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_telemetry_capture_fetch_device_id"), ["device_id"], unique=False)


def downgrade() -> None:
    """Take the step back."""
    with op.batch_alter_table("telemetry_capture_fetch", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_telemetry_capture_fetch_device_id"))
        batch_op.drop_index(batch_op.f("ix_telemetry_capture_fetch_asked_at"))

    op.drop_table("telemetry_capture_fetch")
    with op.batch_alter_table("telemetry_capture", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_telemetry_capture_received_at"))
        batch_op.drop_index(batch_op.f("ix_telemetry_capture_fetch_id"))

    op.drop_table("telemetry_capture")
    op.drop_table("fleet_capture_key")
