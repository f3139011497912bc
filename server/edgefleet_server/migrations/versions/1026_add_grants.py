"""Add grants: roles in a part of the fleet, of tokens, and what limits the tokens of a person.

Tokens keep their roles over the whole fleet, and nothing is said of people: each token decides, as before.
"""

import sqlalchemy as sa
from alembic import op

revision = "1026"
down_revision = "1025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step. It only adds: a server of the step before gives no token more than its roles, and knows no limits of people."""
    op.add_column("access_tokens", sa.Column("grants", sa.JSON(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column("access_people", sa.Column("grants", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Take the step back: what was granted of a part of the fleet is lost, and what limited people too: look through their tokens."""
    op.drop_column("access_people", "grants")
    op.drop_column("access_tokens", "grants")
