"""The hash chain and the Merkle tree of the audit trail: what an entry's hash covers, what a head says, and what a proof shows. Pure."""
