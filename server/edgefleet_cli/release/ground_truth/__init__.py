"""Ground truth: accuracy over time, and labels that come later."""
