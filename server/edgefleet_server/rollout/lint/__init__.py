"""Dry run and lint of a spec against the devices there are: what it would do, what cannot work, what it costs. Pure."""
