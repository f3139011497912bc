"""Settings and parts of the agent put together: the only place that knows how they are made. Decides nothing."""
