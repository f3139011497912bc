"""Declarative files: what a fleet should have, as documents that `apply` takes and `get -o yaml` writes."""
