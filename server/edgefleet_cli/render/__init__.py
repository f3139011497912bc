"""How answers are written: tables, JSON, YAML, CSV and names on stdout, progress and remarks on stderr.

Knows no noun of the fleet.
"""
