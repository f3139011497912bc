"""What TUF names and how: numbers of releases, the head of the audit trail, and where the server is."""
