"""The page of one model: what is live, what runs where, a line a version over time, and where the newest comes from."""
