"""Alerts of the fleet: `edgectl alert`, with its rules, silences, maintenance windows and contact points."""
