"""Trusted pipelines: jobs of CI that sign in by who they are, without a stored secret (PyPI: trusted publishers)."""
