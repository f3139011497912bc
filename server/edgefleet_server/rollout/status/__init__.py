"""What people see of rollouts: summaries, devices, metrics, blockers, experiments. Nothing here writes."""
