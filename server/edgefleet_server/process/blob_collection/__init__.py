"""Removing blobs that nothing names: where names can be, reading them, and the run of a command (ADR 0159)."""
