"""Make room for sealed secrets, and note which key seals them. The server seals them when it starts: a migration has no key."""

import sqlalchemy as sa
from alembic import op

revision = "1021"
down_revision = "1020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds, and lets a column hold more."""
    op.create_table(
        "sealing_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cleaned_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sealing_state")),
    )
    op.add_column("alert_contact_secret", sa.Column("set_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("webhook_secret") as batch:
        batch.alter_column("secret", existing_type=sa.String(length=80), type_=sa.Text(), existing_nullable=False)


def downgrade() -> None:
    """Take the step back. Sealed secrets stay sealed, and the version before cannot use them."""
    op.drop_column("alert_contact_secret", "set_at")
    op.drop_table("sealing_state")
