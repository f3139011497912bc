"""How long a connection may be silent before the device says that it is there: pure, ADR 0045.

1. A ping a minute costs four times what `normal` telemetry does, so the first connection asks for the setting, 20 minutes. Telemetry
   each 15 minutes is a sign of life too, so that mostly no ping is sent at all.
2. What stands between (NAT, firewalls) forgets a connection that is silent for too long. A connection that is lost after a silence
   longer than any that it has survived is a hint; two in a row, and the next ones are silent for half as long, FLOOR_S at least.
3. What was learnt holds until a connection has lasted RAISE_AFTER_S with it; then twice as long is tried again.
4. While the server asks for `live` windows for long (the device is exposed to a rollout), it is URGENT_S: the broker then notices
   within 90 seconds that the device is gone, and silence is known from health. A new connection costs 5 KB: a short request is not worth
   it.
"""

from dataclasses import dataclass, replace

FLOOR_S = 60
URGENT_S = 60
URGENT_FROM_S = 900
STRIKES = 2
RAISE_AFTER_S = 7 * 86_400.0
_SURVIVED = 0.9


@dataclass(frozen=True, slots=True)
class Keepalive:
    """What is known of the way to the broker. limit_s: the setting. calm_s: what a connection asks for when nothing is urgent."""

    limit_s: int
    calm_s: int
    strikes: int = 0

    def asks_s(self, *, is_urgent: bool) -> int:
        """Return the keepalive of the next connection, seconds."""
        return min(self.calm_s, URGENT_S) if is_urgent else self.calm_s

    def ended(self, *, lasted_s: float, quiet_s: float, survived_s: float) -> "Keepalive":
        """Return what is known after a connection was lost.

        lasted_s: since it was made. quiet_s: since something came over it. survived_s: the longest silence that something came after.
        """
        if quiet_s >= FLOOR_S and quiet_s * _SURVIVED > survived_s:
            strikes = self.strikes + 1
            if strikes < STRIKES or self.calm_s <= FLOOR_S:
                return replace(self, strikes=min(strikes, STRIKES))
            return replace(self, strikes=0, calm_s=max(FLOOR_S, int(min(self.calm_s, quiet_s) / 2)))
        if lasted_s >= RAISE_AFTER_S:
            return replace(self, strikes=0, calm_s=min(self.limit_s, 2 * self.calm_s))
        return replace(self, strikes=0 if survived_s >= FLOOR_S else self.strikes)


def is_urgent(live_until_s: float, now_s: float, *, is_now: bool) -> bool:
    """Say whether the device's end must be noticed soon. live_until_s: unix seconds, infinite = for good. is_now: it is so already."""
    return live_until_s - now_s > (0.0 if is_now else URGENT_FROM_S)
