"""Frozen versions: what a released version left on disks, from which later versions are tested. See README.md."""
