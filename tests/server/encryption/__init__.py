"""Tests of secrets in the database: sealed, opened, listed, and never shown."""
