"""Webhooks: what happens in the fleet, sent to others as signed CloudEvents, at least once (ADR 0040)."""
