"""People and services: the owners of tokens."""
