"""Ground truth on the device: labels that come later meet the answers in the prediction log, and are counted for the next window."""
