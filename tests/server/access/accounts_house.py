"""People with passwords, hashed at a cost that tests can pay."""

from __future__ import annotations

from functools import cache

import argon2

from edgefleet_server.access.accounts.password_hasher import PasswordHasher

QUICK = argon2.Parameters(argon2.Type.ID, 19, 16, 32, 1, 8, 1)
PASSWORD = "blue whale 42 sings"
OTHER = "seven green lamps & tea"


@cache
def quick_hasher() -> PasswordHasher:
    """Return a hasher of little cost: 8 KiB, one pass."""
    return PasswordHasher(QUICK, argon2.PasswordHasher.from_parameters(QUICK).hash("nobody's"))


def code_in(url_path: str) -> str:
    """Return the code of a one-time address."""
    return url_path.partition("code=")[2]
