"""Alerts of this fleet: from findings of rules to pending, firing and resolved ones, what suppresses them, and who is sent a message."""
