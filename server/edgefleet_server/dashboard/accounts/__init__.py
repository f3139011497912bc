"""Pages of local accounts: choosing a password with a one-time code, and one's own account."""
