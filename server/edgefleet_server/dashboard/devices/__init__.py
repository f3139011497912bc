"""Pages of one device: what it should run and runs, its charts, tasks and events."""
