"""Alerts of a monitoring system that pause or roll back a rollout (ADR 0041)."""
