"""The shards of the two topics that all devices share: where they are, and that every broker's rules let a device read them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import Topics, may, shard_of
from edgefleet_server.gateway.outbound import SHARDS

TOPICS = Topics(TenantId("acme"))


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{2,62}", fullmatch=True).map(DeviceId))
def test_a_device_may_read_its_shards_and_publish_to_none(device: DeviceId) -> None:
    shard = shard_of(device)
    mine = (TOPICS.shard("head", shard), TOPICS.shard("hold", shard))
    assert shard in SHARDS
    assert TOPICS.shard_subscriptions(device) == tuple((one, 1) for one in mine)
    for topic in mine:
        assert may("acme", device, topic, publish=False)
        assert not may("acme", device, topic, publish=True)
        assert may("acme", "srv-a", topic, publish=True)


def test_the_shard_of_an_id_never_changes() -> None:
    assert [shard_of(DeviceId(one)) for one in ("d-one", "d-two")] == ["1f", "95"]


def test_ids_of_one_batch_are_spread() -> None:
    counts = Counter(shard_of(DeviceId(f"line-7-{n:06d}")) for n in range(25_600))
    assert set(counts) == set(SHARDS)
    assert max(counts.values()) < 200  # of 100
