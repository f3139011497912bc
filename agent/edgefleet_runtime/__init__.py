"""Adapters over the inference runtimes, pre/post-processing, golden check and non-finite scan."""
