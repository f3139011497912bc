"""The first page: whether the fleet is well, in one sentence, with the map of devices, what is under way, and what happened today."""
