"""The frame that graph passes run in."""
