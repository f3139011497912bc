"""What takes a retraining from its cause to its end: the alerts it rests on, the records, the release, the rollout, and what came of it."""
