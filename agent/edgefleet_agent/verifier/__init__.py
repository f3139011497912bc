"""The short-lived process that reads every untrusted byte: TUF metadata, signed documents, bundles (docs/explanation/on-the-device.md).

1. Started by agentd as `python -m edgefleet_agent.verifier` with one SOCK_SEQPACKET socket on descriptor 3; no network of its own.
2. `desired.ok`, `hold.ok` and valid slots are written only by this process and only after everything in them was verified.
3. The only place of the agent that imports `tuf`, and besides enrolment and renewal the only one that imports `cryptography`;
   their memory is gone when it exits.
"""
