"""The device CA is rotated with its devices attached (ADR 0133)."""
