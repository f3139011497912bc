"""Figures of the device and its models: `collect` reads them, `window` adds them up."""
