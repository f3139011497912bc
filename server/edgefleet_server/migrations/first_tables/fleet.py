"""Devices, their documents and reports: the tables as of step 1001."""

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Make the tables and their indexes."""
    op.create_table(
        "fleet_capture_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_capture_key")),
    )
    op.create_table(
        "fleet_claim",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("root_sha256", sa.String(length=64), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("profile", sa.String(length=63), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("name_prefix", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("approval", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_claim")),
    )
    op.create_table(
        "fleet_desired",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("telemetry", sa.JSON(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resign_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tasks", sa.JSON(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_fleet_desired")),
    )
    op.create_index("ix_fleet_desired_changed_at", "fleet_desired", ["changed_at"])
    op.create_index("ix_fleet_desired_resign_at", "fleet_desired", ["resign_at"])
    op.create_table(
        "fleet_device",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("profile", sa.String(length=63), nullable=False),
        sa.Column("arch", sa.String(length=32), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cert_not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_public_key", sa.Text(), nullable=True),
        sa.Column("is_online", sa.Boolean(), nullable=True),
        sa.Column("conn_id", sa.String(length=64), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("state_seq", sa.BigInteger(), nullable=False),
        sa.Column("reported_gen", sa.BigInteger(), nullable=False),
        sa.Column("reported", sa.JSON(), nullable=True),
        sa.Column("free_mb", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_device")),
    )
    op.create_index("ix_fleet_device_last_seen", "fleet_device", ["last_seen", "id"])
    op.create_index("ix_fleet_device_live_profile", "fleet_device", ["revoked_at", "profile"])
    op.create_index("ix_fleet_device_presence", "fleet_device", ["revoked_at", "is_online", "id"])
    op.create_index("ix_fleet_device_profile", "fleet_device", ["profile", "id"])
    op.create_table(
        "fleet_enrolment",
        sa.Column("claim_id", sa.String(length=32), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("cert", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("claim_id", "key_sha256", name=op.f("pk_fleet_enrolment")),
    )
    op.create_table(
        "fleet_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("rollout_id", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_event")),
        sa.UniqueConstraint("device_id", "boot_id", "seq", name=op.f("uq_fleet_event_device_id_boot_id_seq")),
    )
    op.create_index("ix_fleet_event_device_id", "fleet_event", ["device_id"])
    op.create_index("ix_fleet_event_received_at", "fleet_event", ["received_at"])
    op.create_index("ix_fleet_event_rollout_id", "fleet_event", ["rollout_id"])
    op.create_table(
        "fleet_group",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_fleet_group")),
    )
    op.create_table(
        "fleet_hold",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("rollouts", sa.JSON(), nullable=False),
        sa.Column("digests", sa.JSON(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_hold")),
    )
    op.create_table(
        "fleet_label",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=127), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "key", name=op.f("pk_fleet_label")),
    )
    op.create_index("ix_fleet_label_key", "fleet_label", ["key", "value", "device_id"])
    op.create_index("ix_fleet_label_value", "fleet_label", ["value", "device_id"])
    op.create_table(
        "fleet_model_state",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("active_target", sa.String(length=255), nullable=False),
        sa.Column("active_sha256", sa.String(length=64), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("assignment", sa.String(length=16), nullable=False),
        sa.Column("error_class", sa.String(length=16), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_fleet_model_state")),
    )
    op.create_index("ix_fleet_model_state_active_target", "fleet_model_state", ["active_target"])
    op.create_index("ix_fleet_model_state_assignment", "fleet_model_state", ["assignment", "changed_at"])
    op.create_index(
        "ix_fleet_model_state_version", "fleet_model_state", ["model", "version", "device_id", "assignment"]
    )
    op.create_table(
        "fleet_pending",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("claim_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("csr", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("profile", sa.String(length=63), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_by", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_pending")),
    )
    op.create_index("ix_fleet_pending_claim_id", "fleet_pending", ["claim_id"])
    op.create_index("ix_fleet_pending_state", "fleet_pending", ["state"])
    op.create_table(
        "fleet_task",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=80), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result_type", sa.String(length=64), nullable=False),
        sa.Column("result_bytes", sa.Integer(), nullable=False),
        sa.Column("result_sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_task")),
    )
    op.create_index("ix_fleet_task_created_at", "fleet_task", ["created_at"])
    op.create_index("ix_fleet_task_device_id", "fleet_task", ["device_id"])
    op.create_table(
        "fleet_task_result",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_fleet_task_result")),
    )
    op.create_index("ix_fleet_task_result_at", "fleet_task_result", ["at"])
