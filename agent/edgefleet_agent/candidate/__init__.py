"""The candidate next to an active version: shadow and split lanes on one device (docs/explanation/shadow-and-split.md)."""
