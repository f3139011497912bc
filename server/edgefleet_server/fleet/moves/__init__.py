"""The server moves to another name, address, port or machine with its devices attached (ADR 0125)."""
