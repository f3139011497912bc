"""Passes over the finished TFLite graph."""
