"""Who this device is, as agentd sees it: the stored identity, its take-over after a renewal, and when to renew.

No cryptography here; see `enrolment`.
"""
