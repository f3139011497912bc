"""Whether a device hears hold and head at the shared topics, at those of its shard, or at both. Pure, ADR 0171. Times are monotonic."""

import math
from dataclasses import dataclass, replace
from enum import IntEnum

HEAD_S = 10.0
DOCUMENT_S = 60.0
REST_S = 600.0
SHARD_COUNT = 256


At = IntEnum("At", "SHARED MOVING LEAVING SHARDED")  # MOVING, LEAVING: both
Act = IntEnum("Act", "SUBSCRIBE_SHARED SUBSCRIBE_SHARDS UNSUBSCRIBE_SHARED")


@dataclass(frozen=True, slots=True)
class Shards:
    """Where one device hears. is_kept: the next connection begins with the shard alone."""

    is_kept: bool = False
    at: At = At.SHARED
    is_granted: bool = False
    head_s: float = -math.inf
    due_s: float = math.inf
    rests_s: float = -math.inf

    def connected(self, now_s: float) -> "Step":
        """Return what to subscribe to first."""
        new = Shards(self.is_kept, rests_s=self.rests_s)
        if self.is_kept:
            return replace(new, at=At.SHARDED, due_s=now_s + HEAD_S), (Act.SUBSCRIBE_SHARDS,)
        return new, (Act.SUBSCRIBE_SHARED,)

    def granted(self, is_granted: bool, now_s: float) -> "Step":
        """The broker answered."""
        if not is_granted:
            return self._back(now_s + REST_S)
        return replace(self, is_granted=True)._left_if_proved()

    def heard_head(self, now_s: float) -> "Step":
        """A head came from the shard."""
        return replace(self, head_s=now_s, due_s=math.inf)._left_if_proved()

    def left(self) -> "Step":
        """The broker answered."""
        if self.at is At.LEAVING:
            return replace(self, at=At.SHARDED, is_kept=True), ()
        return self, ()

    def acked(self, shards: int, now_s: float) -> "Step":
        """The server acknowledged something."""
        if shards != SHARD_COUNT:
            return self._back(now_s + REST_S)
        if self.at is not At.SHARED or now_s < self.rests_s:
            return self, ()
        return replace(self, at=At.MOVING, is_granted=False, head_s=-math.inf), (Act.SUBSCRIBE_SHARDS,)

    def heard_again(self, now_s: float) -> "Step":
        """A known document came unasked: a server has connected."""
        is_new = now_s - self.head_s > DOCUMENT_S and self.at is not At.MOVING
        return self._back(self.rests_s) if is_new else (self, ())

    def looked(self, now_s: float) -> "Step":
        """Time went by."""
        return self._back(self.rests_s) if now_s >= self.due_s else (self, ())

    def _left_if_proved(self) -> "Step":
        if self.at is At.MOVING and self.is_granted and self.head_s > -math.inf:
            return replace(self, at=At.LEAVING), (Act.UNSUBSCRIBE_SHARED,)
        return self, ()

    def _back(self, rests_s: float) -> "Step":
        if self.at is At.SHARED:
            return self, ()
        return Shards(rests_s=rests_s), () if self.at is At.MOVING else (Act.SUBSCRIBE_SHARED,)


Step = tuple[Shards, tuple[Act, ...]]
