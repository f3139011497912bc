"""What rules of alerts look at, loaded: devices, models, objectives, and how the server judged drift."""
