"""The page of enrolment: claim tokens, and devices that wait for approval."""
