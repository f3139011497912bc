"""Prediction logs that are kept: parts of devices taken in, packed into Parquet files, checked, erased and let go (ADR 0105)."""
