"""Simulated devices that speak the real protocol to a real server: `edgectl sim fleet` (ADR 0148)."""
