"""One box that finds devices, groups, models, releases and rollouts by a part of their names."""
