"""What devices measure and capture: their tables as of step 1001."""

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Make the tables and their indexes."""
    op.create_table(
        "telemetry_batch",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("system", sa.JSON(), nullable=False),
        sa.Column("queue_bytes", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "boot_id", "seq", name=op.f("pk_telemetry_batch")),
    )
    op.create_index("ix_telemetry_batch_device_received", "telemetry_batch", ["device_id", "received_at"])
    op.create_index("ix_telemetry_batch_received_at", "telemetry_batch", ["received_at"])
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
    op.create_index("ix_telemetry_capture_fetch_id", "telemetry_capture", ["fetch_id"])
    op.create_index("ix_telemetry_capture_received_at", "telemetry_capture", ["received_at"])
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
    op.create_index("ix_telemetry_capture_fetch_asked_at", "telemetry_capture_fetch", ["asked_at"])
    op.create_index("ix_telemetry_capture_fetch_device_id", "telemetry_capture_fetch", ["device_id"])
    op.create_table(
        "telemetry_watched",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("lines", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_watched")),
        sa.UniqueConstraint("device_id", "boot_id", "seq", name=op.f("uq_telemetry_watched_device_id_boot_id_seq")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_telemetry_watched_received_at", "telemetry_watched", ["received_at"])
    op.create_table(
        "telemetry_window",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("t0", sa.DateTime(timezone=True), nullable=False),
        sa.Column("length_s", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("timeouts", sa.BigInteger(), nullable=False),
        sa.Column("nonfinite", sa.BigInteger(), nullable=False),
        sa.Column("crashes", sa.BigInteger(), nullable=False),
        sa.Column("latency", sa.LargeBinary(), nullable=False),
        sa.Column("classes", sa.LargeBinary(), nullable=False),
        sa.Column("worker_rss_bytes", sa.BigInteger(), nullable=False),
        sa.Column("worker_cpu_s", sa.Float(), nullable=False),
        sa.Column("joules_per_answer", sa.Float(), server_default=sa.text("-1"), nullable=False),
        sa.Column("shadow", sa.LargeBinary(), nullable=True),
        sa.Column("latency_p95_ms", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_window")),
    )
    op.create_index("ix_telemetry_window_device_received", "telemetry_window", ["device_id", "received_at"])
    op.create_index("ix_telemetry_window_received_at", "telemetry_window", ["received_at"])
    op.create_index("ix_telemetry_window_sha256_received", "telemetry_window", ["sha256", "received_at"])
