"""A real agent that was offered a release with many others: it waits for its part of the span, says so, and is not made to wait twice."""

import time
from datetime import UTC, datetime
from pathlib import Path

from edgefleet_protocol.desired import Ref
from edgefleet_protocol.digest import start_after_s
from tests.agent.field import Agent, eventually, offer
from tests.agent.test_withdrawing import release, serving
from tests.server.gateway.conftest import Site


def within_for(agent: Agent, sha256: str, after_s: int) -> int:
    """Return a span of which the device's own part is so many seconds."""
    return next(span for span in range(1, 10**6) if start_after_s(str(agent.id), sha256, span) == after_s)


def test_it_waits_says_until_when_and_goes_on_after_a_restart(site: Site, agent: Agent, first: Ref) -> None:
    serving(agent)
    second = release(site, "1.1.0", 2.0)
    after_s = 12
    began = time.time()
    offer(agent, second, rollout="r-1", start_within_s=within_for(agent, second.sha256, after_s))
    assert eventually(lambda: agent.model()["error_code"] == "install.spread")
    told = agent.model()
    assert (told["phase"], told["active_sha256"], told["error_class"]) == ("committed", first.sha256, None)
    start_s = agent.desired().wanted[0].start_s
    assert began + after_s - 2 <= start_s <= time.time() + after_s
    assert f"{datetime.fromtimestamp(start_s, UTC):%Y-%m-%d %H:%M:%SZ}" in told["reason"]
    assert eventually(lambda: agent.reported().reason == told["reason"]), "the server hears the same words"
    assert "install.spread: waits until" in agent.command("status").stdout
    agent.stop()
    agent.start()
    assert agent.desired().wanted[0].start_s == start_s, "a restart does not begin it anew"
    agent.wait("committed", "1.1.0")
    assert time.time() >= start_s
    assert agent.model()["error_code"] == ""


def test_it_goes_back_to_what_is_in_its_slot_at_once(site: Site, agent: Agent, first: Ref) -> None:
    serving(agent)
    second = release(site, "1.1.0", 2.0)
    offer(agent, second, rollout="r-1")
    agent.wait("committed", "1.1.0")
    offer(agent, first, rollout="r-2", start_within_s=within_for(agent, first.sha256, 3_000))
    agent.wait("committed", "1.0.0")  # which gives up long before its part of the span would be over


def test_a_brake_holds_while_it_waits(site: Site, agent: Agent, first: Ref, tmp_path: Path) -> None:
    serving(agent)
    second = release(site, "1.1.0", 2.0)
    offer(agent, second, rollout="r-1", start_within_s=within_for(agent, second.sha256, 3_000))
    assert eventually(lambda: agent.model()["error_code"] == "install.spread")
    site.house.fleet.hold.set(["r-1"], [])
    assert eventually(lambda: agent.model()["error_code"] == "install.held")
