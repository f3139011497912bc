"""Backups of a server, restoring them, and moving a server from SQLite to PostgreSQL (ADR 0151, ADR 0152)."""
