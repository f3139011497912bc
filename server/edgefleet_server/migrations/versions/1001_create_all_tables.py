"""Create all tables, indexes and triggers."""

from alembic import op

from edgefleet_server.migrations.first_tables import access, fleet, label_triggers, registry, rollout, telemetry

revision = "1001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
access_login_links access_repeats access_sessions access_tokens alert_receiver alert_seen audit webhook
webhook_attempt webhook_delivery webhook_secret blobs models model_aliases profiles releases bundles conversion_jobs
signing_certificate signing_lock signing_tuf_metadata fleet_capture_key fleet_claim fleet_desired fleet_device
fleet_enrolment fleet_event fleet_group fleet_hold fleet_label fleet_model_state fleet_pending fleet_task
fleet_task_result download_lease download_line rollout rollout_assignment rollout_cell rollout_decision
rollout_gate_call rollout_member rollout_minute rollout_quality telemetry_batch telemetry_capture
telemetry_capture_fetch telemetry_watched telemetry_window
"""


def upgrade() -> None:
    """Take the step."""
    access.create()
    registry.create()
    fleet.create()
    label_triggers.create()
    rollout.create()
    telemetry.create()


def downgrade() -> None:
    """Take the step back."""
    for table in reversed(_TABLES.split()):
        op.drop_table(table)
    label_triggers.drop()
