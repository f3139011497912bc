"""Add requests for signatures of root and targets."""

import sqlalchemy as sa
from alembic import op

revision = "1020"
down_revision = "1019"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before goes on working."""
    op.create_table(
        "signing_request",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("purpose", sa.String(length=200), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_request")),
    )
    op.create_index(op.f("ix_signing_request_state"), "signing_request", ["state"])


def downgrade() -> None:
    """Take the step back."""
    op.drop_index(op.f("ix_signing_request_state"), "signing_request")
    op.drop_table("signing_request")
