"""The device daemon: learns what to run, installs it A/B, serves it, reports."""

__version__ = "0.1.0"
