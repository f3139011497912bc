"""Alerts of this fleet: rules, alerts, what suppresses them, and messages."""
