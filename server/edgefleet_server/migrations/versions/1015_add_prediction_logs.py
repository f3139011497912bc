"""Add prediction logs: what is kept of which model, parts as they came, the files that they are in, and who was erased."""

import sqlalchemy as sa
from alembic import op

revision = "1015"
down_revision = "1014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "fleet_prediction_log",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("ratio", sa.Float(), nullable=False),
        sa.Column("inputs", sa.Boolean(), nullable=False),
        sa.Column("keep_days", sa.Integer(), nullable=False),
        sa.Column("subject_key", sa.String(length=64), nullable=False),
        sa.Column("erased", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_fleet_prediction_log")),
    )
    op.create_table(
        "prediction_part",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("log", sa.String(length=32), nullable=False),
        sa.Column("part", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("model", "device_id", "log", "part", name=op.f("pk_prediction_part")),
    )
    op.create_index("ix_prediction_part_model_received", "prediction_part", ["model", "received_at"])
    op.create_index("ix_prediction_part_file", "prediction_part", ["file"])
    waits = sa.text("body IS NOT NULL")
    op.create_index(
        "ix_prediction_part_waiting", "prediction_part", ["model"], sqlite_where=waits, postgresql_where=waits
    )
    op.create_table(
        "prediction_file",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("received_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_whole", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_prediction_file")),
    )
    op.create_index(op.f("ix_prediction_file_model"), "prediction_file", ["model"])
    op.create_table(
        "prediction_erasure",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("subject", sa.String(length=32), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_by", sa.String(length=120), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("captures", sa.Integer(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", "model", name=op.f("pk_prediction_erasure")),
    )
    op.create_index(op.f("ix_prediction_erasure_asked_at"), "prediction_erasure", ["asked_at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("prediction_erasure")
    op.drop_table("prediction_file")
    op.drop_table("prediction_part")
    op.drop_table("fleet_prediction_log")
