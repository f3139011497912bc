"""Pages of what happened: the audit trail with its export, and the list of events."""
