"""What every command of `edgectl` works with: the client of the API, contexts, sessions, options and errors."""
