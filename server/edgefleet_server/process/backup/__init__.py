"""Backups of a server, restoring them, and moving a server from SQLite to PostgreSQL (ADR 0157, ADR 0158)."""
