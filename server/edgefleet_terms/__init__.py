"""Words that server, CLI and reports use alike and a device never reads: figures with units, states of rollouts, labels. Pure."""
