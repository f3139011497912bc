"""Pages of retraining."""
