"""Local accounts of people: names with passwords, one-time codes that let a person choose one, limits on guessing (ADR 0120)."""
