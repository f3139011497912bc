"""Enrolment and renewal: short processes of their own with `cryptography`, which the running agent never loads."""
