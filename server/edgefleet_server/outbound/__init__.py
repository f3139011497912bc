"""Requests that the server sends to URLs that a user named: which addresses are allowed, and one bounded POST or GET."""
