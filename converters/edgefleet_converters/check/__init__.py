"""Gates: what a candidate must hold before it may be offered."""
