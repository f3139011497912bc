"""Who may do what: operator tokens, roles, the route policy and the audit trail."""
