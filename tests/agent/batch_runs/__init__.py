"""Tests of batches on a schedule."""
