"""Figures of the device and its models: `collector` reads them, `window` adds them up."""
