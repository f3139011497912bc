"""How much the signing process signs in a minute: far more than a fleet needs, and far less than a thief would like. No I/O."""

from typing import Final

from edgefleet_server.signing.errors import SigningQuotaError

MINUTE_S: Final = 60.0
DOCUMENTS: Final = 400_000
CERTIFICATES: Final = 6_000
METADATA: Final = 3_000
EVIDENCE: Final = 60
KEYS: Final = 300


class Quotas:
    """Counts what was signed in the minute that runs, by what it is. Not thread-safe."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._since_s = float("-inf")
        self._used: dict[str, int] = {}

    def take(self, what: str, count: int, limit: int, now_s: float) -> None:
        """Count `count` more. now_s: of a clock that never runs back. Raises SigningQuotaError; then nothing was counted."""
        if now_s - self._since_s >= MINUTE_S:
            self._since_s, self._used = now_s, {}
        used = self._used.get(what, 0) + count
        if used > limit:
            raise SigningQuotaError(f"more than {limit} signatures of {what} in a minute")
        self._used[what] = used
