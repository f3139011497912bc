"""`edgectl rollout | undo | experiment | sim`: a release on its way through stages, how it stands and why."""
