"""How much may be sent when: a daily budget of bytes, and a pace that leaves the link to others. Pure: `now_s` is an argument.

1. Telemetry and samples share one token bucket of `daily_bytes`; it holds one day at most and begins with a quarter of one.
   Events are never held back by it, but what they cost is taken from it.
2. Messages of all classes together go at MESSAGES_S a second at most.
3. Telemetry and samples go one at a time: what took t seconds until the broker had it is followed by 4·t of silence, so that a
   backlog takes a fifth of the link at most, whatever the link can carry (docs/operate/bandwidth.md). The round trip of a small message,
   where one was seen on this connection, is no use of the link and is taken off t.
4. While events wait for rule 2, telemetry may borrow BORROWED messages from them: a backlog of one does not hold up the other.
"""

from dataclasses import dataclass, replace

DAY_S = 86_400.0
MESSAGES_S = 20.0
BORROWED = 4.0
SHARE = 0.2
OVERHEAD_BYTES = 275
"""What a QoS 1 message costs on the wire besides its payload, both directions, TLS and TCP: one of 26 bytes was measured as 301."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens that come at `rate` a second up to `burst`. A level below zero is a debt."""

    rate: float
    burst: float
    level: float
    at_s: float

    def now(self, now_s: float) -> "Bucket":
        """Return the bucket with what came since."""
        level = min(self.burst, self.level + max(0.0, now_s - self.at_s) * self.rate)
        return replace(self, level=level, at_s=now_s)

    def less(self, tokens: float) -> "Bucket":
        """Return the bucket without these tokens."""
        return replace(self, level=self.level - tokens)

    def wait_s(self, tokens: float = 0.0) -> float:
        """Return how long until that many tokens (0: any) are there; as of `at_s`."""
        missing = tokens - self.level
        if missing < 0 or (tokens > 0 and missing <= 0):
            return 0.0
        return (missing + 1e-9) / self.rate if self.rate > 0 else float("inf")


def daily(budget_bytes: int, now_s: float) -> Bucket | None:
    """Return the bucket of a daily budget in bytes; None: no limit."""
    if budget_bytes <= 0:
        return None
    return Bucket(budget_bytes / DAY_S, float(budget_bytes), budget_bytes / 4, now_s)


@dataclass(frozen=True, slots=True)
class Pace:
    """When the next message may go. flying_since_s: when the one bulk message on its way was handed over, None: there is none.

    round_trip_s: of the quickest small message on this connection, 0: not known.
    """

    messages: Bucket
    bulk_from_s: float = 0.0
    flying_since_s: float | None = None
    round_trip_s: float = 0.0

    def event_wait_s(self, now_s: float) -> float:
        """Return how long until an event may go."""
        return self.messages.now(now_s).wait_s(1.0)

    def bulk_wait_s(self, now_s: float) -> float:
        """Return how long until telemetry or a sample may go; infinite while one is on its way."""
        if self.flying_since_s is not None:
            return float("inf")
        return max(self.messages.now(now_s).wait_s(-BORROWED), self.bulk_from_s - now_s, 0.0)

    def handed(self, now_s: float, *, bulk: bool) -> "Pace":
        """Return the pace after one message was handed to the link."""
        messages = self.messages.now(now_s).less(1.0)
        return replace(self, messages=messages, flying_since_s=now_s if bulk else self.flying_since_s)

    def arrived(self, now_s: float) -> "Pace":
        """Return the pace after the broker took the bulk message that was on its way."""
        if self.flying_since_s is None:
            return self
        took_s = max(0.0, now_s - self.flying_since_s - self.round_trip_s)
        return replace(self, flying_since_s=None, bulk_from_s=now_s + took_s * (1.0 / SHARE - 1.0))

    def small_arrived(self, took_s: float) -> "Pace":
        """Return the pace after a small message had its PUBACK after so long."""
        known = self.round_trip_s
        return replace(self, round_trip_s=took_s if known == 0.0 else min(known, took_s))

    def lost(self, now_s: float) -> "Pace":
        """Return the pace after the connection ended: nothing is on its way any more."""
        return replace(self, flying_since_s=None, bulk_from_s=now_s, round_trip_s=0.0)


def fresh_pace(now_s: float) -> Pace:
    """Return the pace at the start."""
    return Pace(Bucket(MESSAGES_S, MESSAGES_S, MESSAGES_S, now_s))
