"""Grants: a role in a scope, and what a request touches."""
