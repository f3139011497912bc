"""Secrets in the database, sealed by a key that is not in it (ADR 0119): where the key comes from, sealing, opening, changing it."""
