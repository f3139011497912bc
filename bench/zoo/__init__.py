"""The zoo: models that nothing was tuned on, each converted by edgefleet and by its peers and judged on fresh samples."""
