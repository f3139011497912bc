"""Presence over time: how much of the fleet was connected, and when one device was away."""
