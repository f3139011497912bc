"""Tests of the simulation of rollouts."""
