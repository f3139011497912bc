"""Add data sets that were written elsewhere, what erasures ask of them, and labels by the trace of their answer."""

import sqlalchemy as sa
from alembic import op

revision = "1039"
down_revision = "1038"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "data_set",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("place", sa.String(length=500), nullable=False),
        sa.Column("retraining", sa.String(length=32), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.Column("made_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_set")),
    )
    for column in ("model", "digest", "made_at"):
        op.create_index(op.f(f"ix_data_set_{column}"), "data_set", [column])
    op.create_table(
        "data_set_record",
        sa.Column("data_set", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("record", sa.String(length=32), nullable=False),
        sa.Column("trace_id", sa.String(length=128), nullable=False),
        sa.Column("erasure", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("data_set", "device_id", "record", name=op.f("pk_data_set_record")),
    )
    op.create_index("ix_data_set_record_device_trace", "data_set_record", ["device_id", "trace_id"])
    op.create_table(
        "data_set_purge",
        sa.Column("erasure", sa.String(length=32), nullable=False),
        sa.Column("data_set", sa.String(length=32), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("done_at", _TIME, nullable=True),
        sa.Column("done_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("erasure", "data_set", name=op.f("pk_data_set_purge")),
    )
    op.create_table(
        "truth_label",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("trace_id", sa.String(length=128), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("label", sa.String(length=128), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("model", "trace_id", "device_id", name=op.f("pk_truth_label")),
    )
    op.create_index(op.f("ix_truth_label_received_at"), "truth_label", ["received_at"])
    op.add_column(
        "prediction_erasure", sa.Column("overwritten", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_column("prediction_erasure", "overwritten")
    for table in ("truth_label", "data_set_purge", "data_set_record", "data_set"):
        op.drop_table(table)
