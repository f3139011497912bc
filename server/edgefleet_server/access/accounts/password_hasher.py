"""Argon2id with the second recommended set of RFC 9106 (64 MiB, 3 passes, 4 lanes), few at once.

Each hash takes 64 MiB and about 0.1 s of processor time, so AT_ONCE run and WAITING wait; further ones are refused, and neither memory nor
the threads of the pages run out in a flood. Thread-safe; calls block.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import argon2

from edgefleet_server.access.accounts.password_rules import MAX_CHARS, normal
from edgefleet_server.access.errors import SignInBusyError

AT_ONCE: Final = 2
WAITING: Final = 8
NOBODY: Final = "$argon2id$v=19$m=65536,t=3,p=4$7XS4vbrmJoFBd8dKN1qc4A$fZ1y3pQ3ETbZxu3obxpJqSTO51NdmzePVxZuY3FUMhc"
"""The hash of a password that nobody knows: a name without an account costs the same work."""


class PasswordHasher:
    """Makes and checks hashes of passwords."""

    def __init__(self, cost: argon2.Parameters = argon2.profiles.RFC_9106_LOW_MEMORY, nobody: str = NOBODY) -> None:
        """Wire the cost. nobody: a hash of that cost which no password has."""
        self._argon2 = argon2.PasswordHasher.from_parameters(cost)
        self._nobody = nobody
        self._places = threading.BoundedSemaphore(AT_ONCE + WAITING)
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn to hash or check one password. Raises SignInBusyError at once when too many wait."""
        if not self._places.acquire(blocking=False):
            raise SignInBusyError("too many people sign in at this moment", next_step="try again in 5 s")
        try:
            with self._turns:
                yield
        finally:
            self._places.release()

    def hash(self, password: str) -> str:
        """Return the hash of a password, to be stored. Within a turn."""
        return self._argon2.hash(normal(password))

    def is_right(self, password_hash: str | None, password: str) -> bool:
        """Return whether a password has a hash; None: of nobody, which costs the same and is never right. Within a turn."""
        try:
            self._argon2.verify(password_hash or self._nobody, normal(password)[: MAX_CHARS + 1])
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, UnicodeEncodeError):
            return False
        return bool(password_hash)

    def is_outdated(self, password_hash: str) -> bool:
        """Return whether a hash was made with another cost than today's."""
        return self._argon2.check_needs_rehash(password_hash)
