"""Topics and the one access rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.errors import BadMessageError
from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import UP_LEAVES, Topics, Uplink, may, parse_uplink

T = Topics(TenantId("acme"))
D = DeviceId("d-one")
OWN = "ef/1/acme/d/d-one"
FOREIGN = [
    "#", "+", "+/#", "$SYS/#", "$share/g/ef/1/acme/d/d-one/dn/desired", "ef/1/acme/#", "ef/1/acme/d/#", "ef/1/acme/d/+/dn/desired",
    "ef/1/acme/d/d-two/dn/desired", "ef/1/acme/d/d-two/up/state", f"{OWN}/up/#", f"{OWN}/up/state", f"{OWN}/#", f"{OWN}/+/desired",
    "ef/1/other/d/d-one/dn/desired", "ef/1/acme/b/#", "ef/1/acme/stage/#", "ef/1/acme/repo/#", "ef/1/acme/repo/head/x", "", "ef/1/acme/",
]  # fmt: skip


def test_every_topic_is_as_the_protocol_writes_it() -> None:
    """The wire format: brokers' rules and devices in the field hold these strings."""
    assert {name: getattr(T, name)(D) for name in ("desired", "dn_blk", "dn_meta", "state", "presence", "telemetry")} == {
        "desired": f"{OWN}/dn/desired", "dn_blk": f"{OWN}/dn/blk", "dn_meta": f"{OWN}/dn/meta", "state": f"{OWN}/up/state",
        "presence": f"{OWN}/up/pres", "telemetry": f"{OWN}/up/tele",
    }  # fmt: skip
    assert {name: getattr(T, name)(D) for name in ("sample", "event", "log", "up_blk", "up_meta")} == {
        "sample": f"{OWN}/up/cap", "event": f"{OWN}/up/ev", "log": f"{OWN}/up/log", "up_blk": f"{OWN}/up/blk", "up_meta": f"{OWN}/up/meta",
    }  # fmt: skip
    assert T.device_subscriptions(D) == (
        (f"{OWN}/dn/desired", 1),
        (f"{OWN}/dn/meta", 1),
        (f"{OWN}/dn/blk", 0),
        ("ef/1/acme/repo/head", 1),
        ("ef/1/acme/hold", 1),
    )


def test_device_subscriptions_are_allowed_exact_and_different() -> None:
    filters = [f for f, _ in T.device_subscriptions(D)]
    assert len(set(filters)) == len(filters)
    for one in filters:
        assert may("acme", "d-one", one, publish=False)
        assert "+" not in one
        assert "#" not in one


@pytest.mark.parametrize(
    "topic", [f"{OWN}/dn/#", "ef/1/acme/b/+", "ef/1/acme/b/" + "ab" * 16, "ef/1/acme/stage/+", "ef/1/acme/stage/r-1"]
)
def test_further_own_filters_are_granted(topic: str) -> None:
    assert may("acme", "d-one", topic, publish=False)


@pytest.mark.parametrize("topic", FOREIGN)
def test_foreign_filters_are_refused(topic: str) -> None:
    assert not may("acme", "d-one", topic, publish=False)


@pytest.mark.parametrize("leaf", UP_LEAVES)
def test_a_device_publishes_its_own_uplinks(leaf: str) -> None:
    assert may("acme", "d-one", f"{OWN}/up/{leaf}", publish=True)
    assert not may("acme", "d-one", f"ef/1/acme/d/d-two/up/{leaf}", publish=True)


@pytest.mark.parametrize(
    "topic",
    [
        *FOREIGN[:11],
        f"{OWN}/dn/desired",
        "ef/1/acme/repo/head",
        "ef/1/acme/hold",
        "ef/1/acme/b/x",
        f"{OWN}/up/",
        f"{OWN}/up/+",
        f"{OWN}/up/hoard",
        f"{OWN}/up/hoard/1",
        f"{OWN}/up/state/1",
    ],
)
def test_foreign_publishes_are_refused(topic: str) -> None:
    assert not may("acme", "d-one", topic, publish=True)


@pytest.mark.parametrize("cn", ["", "+", "#", "d-one/up", "../d-one", "D-ONE", "d-one\0", "x" * 80])
def test_a_hostile_name_may_nothing(cn: str) -> None:
    for topic in (f"{OWN}/up/state", f"ef/1/acme/d/{cn}/up/state", f"ef/1/acme/d/{cn}/dn/desired"):
        assert not may("acme", cn, topic, publish=True)
        assert not may("acme", cn, topic, publish=False)


def test_server_accounts_have_their_tenant_only() -> None:
    assert may("acme", "srv-1", T.desired(D), publish=True)
    assert all(may("acme", "srv-1", f, publish=False) for f, _ in T.server_filters())
    assert not may("acme", "srv-1", "ef/1/other/d/d-one/dn/desired", publish=True)
    assert not may("acme", "srv-1", "ef/1/acme/d/+/dn/desired", publish=True)
    assert not may("acme", "srv-1", "$SYS/#", publish=False)


@given(st.text(max_size=60), st.booleans())
def test_no_topic_outside_the_tenant_is_ever_allowed(topic: str, publish: bool) -> None:
    if not topic.startswith("ef/1/acme/"):
        assert not may("acme", "d-one", topic, publish)
        assert not may("acme", "srv-1", topic, publish)


def test_uplinks_parse() -> None:
    assert parse_uplink(T.state(D)) == Uplink(TenantId("acme"), D, "state")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ef/1/acme/d/d-one/up",
        "ef/2/acme/d/d-one/up/state",
        f"{OWN}/up/nope",
        f"{OWN}/dn/desired",
        "ef/1/acme/d/srv-1/up/state",
        f"{OWN}/up/state/x",
    ],
)
def test_other_topics_are_no_uplinks(topic: str) -> None:
    with pytest.raises(BadMessageError):
        parse_uplink(topic)
