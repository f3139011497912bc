"""Backups, restoring them, and moving a server to PostgreSQL."""
