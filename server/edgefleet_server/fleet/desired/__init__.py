"""What devices should run: signed desired documents, candidates, the hold, tasks and the capture key."""
