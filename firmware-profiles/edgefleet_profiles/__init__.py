"""Hardware profiles, one YAML file a board."""
