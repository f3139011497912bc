"""A real agent on a real broker while its server learns of shards and is set back: a hold reaches it in each state (ADR 0171)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.install.records import HoldOk
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway import outbound
from edgefleet_server.gateway.service import Gateway
from tests.agent.field import Agent, eventually, new_site
from tests.server.gateway.conftest import Site

pytestmark = pytest.mark.slow


def server(site: Site, monkeypatch: pytest.MonkeyPatch, *, has_shards: bool) -> None:
    """Start the gateway again; without shards it publishes and acknowledges as older ones do."""
    monkeypatch.undo()
    site.gateway.stop()
    if not has_shards:
        monkeypatch.setattr(outbound, "SHARDS", ())
        monkeypatch.setattr(outbound, "SHARD_COUNT", 0)
    serve(site)


def serve(site: Site) -> None:
    """Start a gateway."""
    house = site.house
    site.gateway = Gateway(
        *(house.settings, site.endpoint, house.fleet, house.telemetry, house.registry, house.signing, house.clock),
        site.traffic,
    )
    site.gateway.start()
    assert eventually(lambda: site.gateway.counters()["connects"])


def reaches(site: Site, agent: Agent, name: str) -> None:
    """Set a hold and wait until the agent has it."""
    site.house.fleet.hold.set([name], [])
    envelope = site.house.fleet.hold.envelope()
    assert envelope is not None

    def has_it() -> bool:
        known = read_record(HoldOk, agent.state / "hold.ok")
        return known is not None and known.raw_sha256 == sha256_hex(envelope)

    assert eventually(has_it), agent.log.read_text()[-3_000:]


def test_a_hold_reaches_the_device_whatever_its_server_knows(
    site: Site, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = agent.state / "shards.ok"

    def is_sharded() -> bool:
        return note.exists() and note.read_bytes() == b"1"

    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "1"}
    server(site, monkeypatch, has_shards=False)
    site.house.fleet.desired.ensure(DeviceId(agent.id))
    agent.start()
    reaches(site, agent, "shared")
    assert not is_sharded()

    server(site, monkeypatch, has_shards=True)
    reaches(site, agent, "moving")
    assert eventually(is_sharded), agent.log.read_text()[-3_000:]
    reaches(site, agent, "sharded")

    agent.kill()
    agent.start()
    reaches(site, agent, "sharded-from-the-start")
    assert is_sharded()

    server(site, monkeypatch, has_shards=False)
    reaches(site, agent, "set-back")
    assert eventually(lambda: not is_sharded())

    agent.kill()
    note.write_bytes(b"1")  # as if it had been away all the time: stale shards answer its first look
    agent.start()
    reaches(site, agent, "set-back-while-away")
    assert eventually(lambda: not is_sharded())


def test_a_broker_that_has_no_head_in_the_shard_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        outbound, "SHARDS", ()
    )  # it acknowledges as if it published to shards: only their silence says otherwise
    site = new_site(tmp_path / "server")
    agent = Agent(site, tmp_path / "device")
    note = agent.state / "shards.ok"
    note.write_bytes(b"1")
    try:
        agent.start()
        reaches(site, agent, "elsewhere")
        assert note.read_bytes() == b""
    finally:
        agent.stop()
        site.close()
