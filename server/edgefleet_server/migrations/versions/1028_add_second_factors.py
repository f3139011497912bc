"""Add the codes of an app that people sign in with besides their password."""

import sqlalchemy as sa
from alembic import op

revision = "1028"
down_revision = "1027"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Take the step. It only adds; a server of the step before asks for no codes, so end it before somebody turns them on."""
    op.create_table(
        "access_second_factors",
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("secret", sa.String(length=512), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.Column("confirmed_at", _TIME, nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("recovery_sha256", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("person_id", name=op.f("pk_access_second_factors")),
    )


def downgrade() -> None:
    """Take the step back."""
    op.drop_table("access_second_factors")
