"""Index events by kind.

Charts ask for the few deploys, rollbacks, alerts and drifts among all events of a month.

Revision: 1014, after 1013.
"""

from alembic import op

revision = "1014"
down_revision = "1013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_index("ix_fleet_event_kind_received", "fleet_event", ["kind", "received_at"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index("ix_fleet_event_kind_received", table_name="fleet_event")
