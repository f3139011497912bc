"""Pages of rollouts: list, the four steps to a new one, one rollout, undo, experiments, and alerts that act on rollouts."""
