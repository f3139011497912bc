"""Count what one inference of a model file does: facts of the file and its input, the same on every host, for cost models."""
