"""Batches on a schedule: when a run is due, what became of it, and the child that does it. Of it `rules` decides."""
