"""Carries a plan out: batches, transactions, signed documents, events and metrics."""
