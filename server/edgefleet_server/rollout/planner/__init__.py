"""Plans one reconcile pass of a rollout: a snapshot and the time in, effects out. Pure."""
