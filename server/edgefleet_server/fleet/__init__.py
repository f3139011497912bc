"""Devices: how they enrol, what they should run, what they report."""
