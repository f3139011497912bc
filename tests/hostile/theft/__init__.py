"""What a thief of one key can do to a device: executable proofs, each on the agent's own verifier with real keys and state."""
