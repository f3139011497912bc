"""The audit trail as a chain: appending one entry after the other, heads over them, proofs, and reading all of it again."""
