"""What models and groups cost: bytes, device-hours, energy, conversions and storage, in units and in money (ADR 0138)."""
