"""Tests of alert receivers."""
