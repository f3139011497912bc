"""The built-in rules of alerts: pure functions from facts to findings, registered in one table (ADR 0100)."""
