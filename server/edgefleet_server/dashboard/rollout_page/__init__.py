"""How the page of one rollout shows it: head, answer, pipeline, gates, strip of devices, story, replay, simulation."""
