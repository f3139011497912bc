"""The commands of `edge-agent` that ask a running device: inference, predictions, shadow, rollback. Never imported by agentd."""
