"""Which inputs a model's answers hang on: permutation of columns, occlusion of parts of pictures (docs/how-to/explain-a-model.md)."""
