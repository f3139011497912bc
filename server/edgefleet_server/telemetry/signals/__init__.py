"""Signals of models as devices count them: checked, and added up by bundle, device and time."""
