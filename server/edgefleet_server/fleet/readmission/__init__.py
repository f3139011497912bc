"""Devices whose certificate ended while they were away: who may come back by itself, and who waits for a person."""
