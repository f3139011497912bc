"""Deployment protection rules: devices that take releases only by an approved rollout (ADR 0118)."""
