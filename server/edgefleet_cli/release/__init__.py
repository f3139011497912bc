"""`edgectl publish | release | model`: models at a version, from their files to signed bundles, and where they run."""
