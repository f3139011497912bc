"""What happened, as a story: events folded by rollout, release and time into few lines, for the overview, rollouts and devices."""
