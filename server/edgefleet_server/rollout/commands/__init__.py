"""What a person asks of a rollout (pause, abort, promote, retry, undo), as plans. Pure."""
