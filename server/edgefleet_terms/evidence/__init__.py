"""The evidence of a model in one archive: its manifest, how its files are laid out, and what of the audit trail belongs to it. Pure."""
