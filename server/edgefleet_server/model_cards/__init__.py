"""Model cards: what a release is, what was measured of it, and what people say of it (docs/reference/model-card.md)."""
