"""Retraining: triggers that say when a model is trained again, and their runs from the cause to the new release's rollout (ADR 0135)."""
