"""The candidate beside an active version: shadow and split lanes on one device (`agent.md` §5.5)."""
