"""TFLite sources: a bounds-checked reader and the facts the pipeline needs."""
