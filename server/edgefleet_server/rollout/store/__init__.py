"""The rollouts' tables and their SQL. Functions work in the caller's session and never commit."""
