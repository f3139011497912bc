"""Tests of what the server tells other monitoring systems."""
