"""Tests of the rollout feature."""
