"""What is decided about a stage, and on which evidence: facts, rules, metrics, gates, statistics. Pure."""
