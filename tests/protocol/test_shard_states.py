"""When a device leaves the shared topics for its shard, and what brings it back: by table, and with a broker in any order of events."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.shards import DOCUMENT_S, HEAD_S, REST_S, SHARD_COUNT, Act, At, Shards, Step

NEW = Shards()
MOVING = Shards(at=At.MOVING)
LEAVING = Shards(at=At.LEAVING, is_granted=True, head_s=1.0)
SHARDED = Shards(True, At.SHARDED, is_granted=True, head_s=1.0)
PROVING = Shards(True, At.SHARDED, due_s=100.0 + HEAD_S)
BACK = (Act.SUBSCRIBE_SHARED,)
RESTED = Shards(rests_s=100.0 + REST_S)


@pytest.mark.parametrize(
    ("step", "state", "acts"),
    [
        (NEW.connected(100.0), NEW, (Act.SUBSCRIBE_SHARED,)),
        (SHARDED.connected(100.0), PROVING, (Act.SUBSCRIBE_SHARDS,)),
        (NEW.acked(SHARD_COUNT, 100.0), MOVING, (Act.SUBSCRIBE_SHARDS,)),
        (NEW.acked(0, 100.0), NEW, ()),
        (NEW.acked(512, 100.0), NEW, ()),
        (RESTED.acked(SHARD_COUNT, 99.0 + REST_S), RESTED, ()),
        (RESTED.acked(SHARD_COUNT, 100.0 + REST_S), replace(RESTED, at=At.MOVING), (Act.SUBSCRIBE_SHARDS,)),
        (MOVING.granted(True, 100.0), replace(MOVING, is_granted=True), ()),
        (MOVING.granted(False, 100.0), RESTED, ()),
        (MOVING.acked(0, 100.0), RESTED, ()),
        (MOVING.heard_head(1.0), replace(MOVING, head_s=1.0), ()),
        (replace(MOVING, is_granted=True).heard_head(1.0), LEAVING, (Act.UNSUBSCRIBE_SHARED,)),
        (replace(MOVING, head_s=1.0).granted(True, 2.0), LEAVING, (Act.UNSUBSCRIBE_SHARED,)),
        (LEAVING.left(), SHARDED, ()),
        (LEAVING.acked(0, 100.0), RESTED, (Act.SUBSCRIBE_SHARED,)),
        (LEAVING.connected(100.0), NEW, (Act.SUBSCRIBE_SHARED,)),
        (NEW.left(), NEW, ()),
        (SHARDED.acked(SHARD_COUNT, 100.0), SHARDED, ()),
        (SHARDED.acked(0, 100.0), RESTED, BACK),
        (SHARDED.acked(512, 100.0), RESTED, BACK),
        (PROVING.granted(False, 100.0), RESTED, BACK),
        (PROVING.looked(99.9 + HEAD_S), PROVING, ()),
        (PROVING.looked(100.0 + HEAD_S), NEW, BACK),
        (PROVING.heard_head(101.0), replace(PROVING, head_s=101.0, due_s=math.inf), ()),
        (SHARDED.looked(math.inf), NEW, BACK),
        (SHARDED.heard_again(1.0 + DOCUMENT_S), SHARDED, ()),
        (SHARDED.heard_again(1.1 + DOCUMENT_S), NEW, BACK),
        (LEAVING.heard_again(1.1 + DOCUMENT_S), NEW, (Act.SUBSCRIBE_SHARED,)),
        (MOVING.heard_again(100.0), MOVING, ()),
        (NEW.heard_again(100.0), NEW, ()),
    ],
)
def test_each_step(step: Step, state: Shards, acts: tuple[Act, ...]) -> None:
    assert step == (state, acts)


@dataclass
class Broker:
    """What a broker has of one device, and what is on the way to and from it: packets keep their order. heads: its shard has one."""

    grants: bool = True
    heads: bool = True
    shared: bool = False
    shards: bool = False
    answers: list[str] = field(default_factory=list)

    def take(self, acts: tuple[Act, ...]) -> None:
        """Do what the device's packets ask for."""
        for act in acts:
            if act is Act.SUBSCRIBE_SHARED:
                self.shared = True
            elif act is Act.UNSUBSCRIBE_SHARED:
                self.shared = False
                self.answers.append("left")
            elif act is Act.SUBSCRIBE_SHARDS:
                self.shards = self.shards or self.grants
                self.answers += ["granted" if self.grants else "refused"] + ["head"] * (self.grants and self.heads)


def answered(state: Shards, answer: str, now: float) -> Step:
    """Return what comes of a packet of the broker."""
    if answer == "left":
        return state.left()
    return state.heard_head(now) if answer == "head" else state.granted(answer == "granted", now)


EVENTS = ("connect", "answer", "answer", "ack", "ack none", "known document", "look", "other broker", "head")


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0.0, 700.0), st.booleans(), st.booleans()), max_size=60))
def test_hold_is_always_heard_somewhere(events: list[tuple[str, float, bool, bool]]) -> None:
    now, state, broker, kept = 0.0, Shards(), Broker(), False
    step = state.connected(now)
    for event, later, one, other in [("", 0.0, True, True), *events]:
        now += later
        if event == "other broker":
            broker, step = Broker(one, other), state.connected(now)
        elif event == "connect":
            broker.answers.clear()
            step = (state if one else Shards(kept)).connected(now)  # a new connection, or a new process
        elif event == "answer" and broker.answers:
            step = answered(state, broker.answers.pop(0), now)
        elif event == "ack":
            step = state.acked(SHARD_COUNT, now)
        elif event == "ack none":
            step = state.acked(0, now)
        elif event == "known document":
            step = state.heard_again(now)
        elif event == "look":
            step = state.looked(now)
        elif event == "head" and broker.shards:
            step = state.heard_head(now)
        elif event:
            continue
        state, acts = step
        broker.take(acts)
        kept = state.is_kept
        is_proving = state.at is At.SHARDED and state.due_s < math.inf
        assert broker.shared or (broker.shards and state.head_s > -math.inf) or is_proving, (event, state)
        assert state.at is not At.SHARED or broker.shared
        if event in {"ack none", "other broker"}:
            assert broker.shared or is_proving
        if is_proving:
            late, back = state.looked(state.due_s)
            assert Act.SUBSCRIBE_SHARED in back
            assert late.at is At.SHARED
