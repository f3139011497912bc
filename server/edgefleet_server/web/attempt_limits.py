"""Limits on tries with a wrong secret: of sign-ins, of operator tokens at the API, of claim tokens at the device listener.

A try names an account (the id of a token, a link or a claim) and comes from an address.
1. MAX_FAILURES a minute of one account from one address: further ones are refused unread. Others behind that address are not concerned.
2. MAX_OF_ADDRESS a minute from one address, whatever the accounts: from there only accounts that exist are looked up. So somebody who
   invents ids cannot lock out neighbours either.
3. A secret that worked is always looked up. So somebody who knows an id cannot lock out its owner behind the same address.

In memory of this process: with 256-bit secrets nothing can be guessed, so this only bounds the work that strangers can cause.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.web.connection_budget import counted_address

MAX_FAILURES: Final = 20
MAX_OF_ADDRESS: Final = 200
WINDOW_S: Final = 60.0
MAX_KEYS: Final = 4096
KNOWN_S: Final = 5.0
"""How long the accounts that exist are remembered."""

Key = tuple[str, str | None]
"""Address and account; None: all accounts."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. account: the id that the secret names, "" where it names none."""

    address: str
    account: str
    secret: str


class TooManyLoginsError(EdgefleetError):
    """Too many tries failed within a minute. `retry_after_s`: when to try again."""

    code = "access.too_many_logins"

    def __init__(self, message: str, *, next_step: str, retry_after_s: int) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after_s = retry_after_s


class AttemptLimiter:
    """Counts failures by address (IPv6: /64) and account; knows the MAX_KEYS that failed most recently. Thread-safe."""

    def __init__(self, clock: Clock, accounts: Callable[[], Collection[str]]) -> None:
        """Wire the parts. accounts: returns the ids that exist; may block."""
        self._clock = clock
        self._accounts = accounts
        self._lock = threading.Lock()
        self._failures: OrderedDict[Key, deque[float]] = OrderedDict()
        self._worked: OrderedDict[str, None] = OrderedDict()
        self._reading = threading.Lock()
        self._known: frozenset[str] = frozenset()
        self._known_until_s = float("-inf")

    def check(self, attempt: Attempt) -> None:
        """Raise TooManyLoginsError while an account fails too often from an address, or an address with any account."""
        if not self._failures:
            return
        now_s, address = self._clock.monotonic_s(), counted_address(attempt.address)
        with self._lock:
            if _digest(attempt) in self._worked:
                return
            wait_s = self._wait_s((address, attempt.account), MAX_FAILURES, now_s)
            wait_all_s = self._wait_s((address, None), MAX_OF_ADDRESS, now_s)
        if wait_s:
            raise _too_many(f"{MAX_FAILURES} tries with this token or link failed from this address", wait_s)
        if wait_all_s and attempt.account not in self._existing(now_s):
            raise _too_many(f"{MAX_OF_ADDRESS} tries with tokens and links failed from this address", wait_all_s)

    def note_success(self, attempt: Attempt) -> None:
        """Remember a secret that worked."""
        digest = _digest(attempt)
        with self._lock:
            self._worked[digest] = None
            self._worked.move_to_end(digest)
            while len(self._worked) > MAX_KEYS:
                self._worked.popitem(last=False)

    def note_failure(self, attempt: Attempt) -> None:
        """Count one failure."""
        now_s, address = self._clock.monotonic_s(), counted_address(attempt.address)
        with self._lock:
            self._worked.pop(_digest(attempt), None)
            for key, most in (((address, attempt.account), MAX_FAILURES), ((address, None), MAX_OF_ADDRESS)):
                failures = self._failures.setdefault(key, deque(maxlen=most))
                failures.append(now_s)
                self._failures.move_to_end(key)
            while len(self._failures) > MAX_KEYS:
                self._failures.popitem(last=False)

    def _wait_s(self, key: Key, most: int, now_s: float) -> int:
        """Return the seconds until a key may fail again, 0 when it may now."""
        failures = self._failures.get(key)
        if failures is None:
            return 0
        while failures and failures[0] <= now_s - WINDOW_S:
            failures.popleft()
        if not failures:
            del self._failures[key]
            return 0
        return max(1, math.ceil(failures[0] + WINDOW_S - now_s)) if len(failures) >= most else 0

    def _existing(self, now_s: float) -> frozenset[str]:
        with self._reading:  # the others wait for the one that reads, else they would miss accounts
            if now_s >= self._known_until_s:
                self._known = frozenset(self._accounts())
                self._known_until_s = now_s + KNOWN_S
            return self._known


def _digest(attempt: Attempt) -> str:
    return sha256_hex(attempt.secret.encode("utf-8", "surrogatepass"))


def _too_many(what: str, wait_s: int) -> TooManyLoginsError:
    return TooManyLoginsError(f"{what} within a minute", next_step=f"try again in {wait_s} s", retry_after_s=wait_s)
