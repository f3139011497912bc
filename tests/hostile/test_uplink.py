"""A device that sends, or asks for, more than a device may: real brokers, the real gateway, a real client."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from edgefleet_protocol.blocks import BlockData, BlockError, BlockErrorCode
from edgefleet_protocol.messages import Event, EventKind, Telemetry, Window
from edgefleet_server.gateway import device_ledger
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.broker.client import eventually
from tests.hostile.uplink_flood import EVENT_BYTES, Switcher, big_event, limited_event
from tests.server.fleet.house import PROFILE
from tests.server.gateway.conftest import KINDS, Site

STRICT: dict[str, Any] = {
    "device_bytes_per_s": 16 * 1024,  # 1.9 MiB at once
    "device_daily_events": 100,
    "device_daily_windows": 100,
    "device_hourly_downlink_bytes": 16 << 20,
    "uplink_queue_bytes": 16 << 20,
}
MIB = 1 << 20


@pytest.fixture(scope="module", params=KINDS)
def strict(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site with small quotas for all tests: each has devices of its own."""
    if request.param is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")
    made = Site(tmp_path_factory.mktemp("strict"), request.param, **STRICT)
    yield made
    made.close()


def database_bytes(site: Site) -> int:
    return sum(one.stat().st_size for one in site.folder.glob("server.db*"))


def test_a_flood_of_big_events_is_cut_off_named_and_delays_nobody(strict: Site) -> None:
    site = strict
    evil = site.connect(site.house.device())
    other = Switcher(site)
    other.switch_s()
    before, dropped_before = database_bytes(site), sum(site.gateway.dropped().values())
    for seq in range(150):
        evil.client.publish(evil.topics.event(evil.id), big_event(evil.id, seq), qos=1)
    assert other.switch_s() < 10
    eventually(lambda: sum(site.gateway.dropped().values()) > dropped_before + 60, "the flood ends at the quota")
    told = eventually(lambda: limited_event(site, evil.id), "the event that names the device")
    assert told["dropped"] >= 1
    assert "rate" in told["reasons"] or "queue" in told["reasons"]
    # first: what is stored meanwhile is acknowledged later
    acked = {seq for _ in range(evil.acks.qsize()) for seq in evil.acks.get().events}
    stored = site.house.fleet.feed.page(device_id=evil.id, kinds=["boot"], limit=1)[1]
    assert 10 < stored <= 120 * 16 * 1024 // EVENT_BYTES + 10, "what the budget allows is stored, and no more"
    assert database_bytes(site) - before < 8 * MIB
    assert len(acked) <= stored, "what was dropped is not acknowledged: an honest device sends it again"


def test_a_day_has_an_end_for_small_messages_too(strict: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_ledger, "AGAIN_S", 0.1)  # what it sends need not be in one batch
    site = strict
    device = site.connect(site.house.device())
    for seq in range(130):
        device.say(
            device.topics.event(device.id), Event(device=device.id, boot_id="b", seq=seq, ts=1, kind=EventKind.BOOT)
        )
    window = Window(t0=1_764_000_000, length_s=60, model="m", lane="active", sha256="a" * 64, version="1", n=1)
    lie = Window(
        t0=1_764_000_000, length_s=60, model="m", lane="active", sha256="a" * 64, version="1", n=2**61, errors=2**61
    )
    for seq, windows in enumerate([[window] * 60, [window] * 60, [lie, window]]):
        message = Telemetry(device=device.id, boot_id="b", seq=seq, ts=1, windows=windows)
        device.say(device.topics.telemetry(device.id), message)
    all_of_it = {"day": 31, "impossible": 1}
    eventually(
        lambda: limited_event(site, device.id).get("reasons") == all_of_it, "the event with all that was dropped"
    )
    assert site.house.fleet.feed.page(device_id=device.id, kinds=["boot"], limit=1)[1] == 100
    assert site.house.telemetry.windows(device.id, None, 1)[1] == 61


def test_requests_of_a_few_bytes_earn_no_more_than_the_budget(strict: Site) -> None:
    site = strict
    ref = site.house.release("big@1", bundles={PROFILE: b"x" * 1_000_000})
    keyed = site.house.device()
    site.house.fleet.deployer.deploy(ref, device=keyed.id)
    bundle = site.house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    device = site.connect(keyed)
    came = 0
    until = time.monotonic() + 20
    while time.monotonic() < until:
        device.ask(bundle.sha256, tuple(range(31)), credit=32)
        answer = device.blocks.get(timeout=10)
        if isinstance(answer, BlockError):
            break
        came += sum(len(one.payload) for one in [answer] if isinstance(one, BlockData))
    assert isinstance(answer, BlockError)
    assert answer.code is BlockErrorCode.BUSY
    assert answer.retry_ms == 30_000
    sent = site.gateway.counters()["block_bytes"]
    assert 8 * MIB < sent <= 8 * MIB + 4 * 1_000_000, "half of the hour's budget, and four times what it is offered"
    assert isinstance(device.meta("timestamp.json"), bytes), "metadata has its own half"
    told = eventually(lambda: limited_event(site, device.id), "the event that names the device")
    assert set(told["reasons"]) == {"downlink"}
