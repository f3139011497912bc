"""Contact points: where messages about alerts go, by mail, Slack, Teams, PagerDuty, ntfy and others of Apprise (ADR 0100)."""
