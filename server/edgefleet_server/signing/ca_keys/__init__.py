"""The device CAs that are trusted: one, and two while it is rotated (ADR 0128)."""
