"""Installs that end before their switch because nobody wants them any more, or because the brake says so."""

import os
from pathlib import Path

import msgspec
import pytest

from edgefleet_agent.install.records import ModelRecord
from edgefleet_protocol.desired import Ref, TelemetryRequest
from edgefleet_protocol.ids import ModelName
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from tests.agent.field import Agent, eventually, offer, publish
from tests.agent.test_going_back import LONG, settled_requests
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

CHILD, WORKER = b"edgefleet_agent.verifier", b"edgefleet_agent.worker"


def release(site: Site, version: str, scale: float = 1.0, pad: int = 0) -> Ref:
    """Publish a good version, with so many bytes more."""
    extra = {"pad.bin": os.urandom(pad)} if pad else None
    return publish(site, version, bundle_bytes(classifier_onnx(scale), version=version, extra=extra))


def with_first(site: Site, agent: Agent, phase: str) -> Ref:
    """Bring 1.0.0 to service, proven or on a long trial."""
    if phase == "probation":
        agent.environment = {**agent.environment, **LONG}
    agent.start()
    first = release(site, "1.0.0")
    offer(agent, first, rollout="r-0")
    agent.wait(phase, "1.0.0")
    assert eventually(lambda: agent.model().get("serving"))
    return first


def serving(agent: Agent) -> None:
    """Start an agent that has proven 1.0.0 before."""
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))


def without_time(record: ModelRecord) -> ModelRecord:
    """Return the record without what a withdrawn install, and the golden checks meanwhile, may change."""
    seen = msgspec.structs.replace(record.seen, golden_ok=0)
    return msgspec.structs.replace(
        record, phase_since_s=0, steps=0, tries=0, strategy="", wanted=None, served=None, gen=0, seen=seen
    )


def is_gone(pid: int) -> bool:
    """Say whether a process has ended."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("phase", ["committed", "probation"])
@pytest.mark.parametrize("module", [CHILD, WORKER], ids=["download", "trial"])
def test_a_wish_for_what_serves_ends_an_install_under_way(site: Site, agent: Agent, phase: str, module: bytes) -> None:
    first = with_first(site, agent, phase)
    if phase == "probation":
        agent.infer()
        assert eventually(lambda: agent.record().seen.n == 1)
    before = agent.record()
    inode = (agent.state / "models" / "digits" / "A" / "bundle").stat().st_ino
    second = release(site, "1.1.0", 2.0, pad=30_000_000 if module == CHILD else 0)
    offer(agent, second, rollout="r-1")
    busy = ("downloading",) if module == CHILD else ("preflight", "golden", "warming")
    frozen = eventually(lambda: agent.model().get("phase") in busy and agent.freeze(module))
    assert frozen, agent.log.read_text()
    asked = settled_requests(site)  # what the child asked before it was stopped may still be on its way
    gen = offer(agent, first, rollout="r-0")
    assert eventually(lambda: agent.model().get("gen") == gen), agent.log.read_text()
    model = agent.wait(phase, "1.0.0")
    assert (model["wanted_sha256"], model["rollout"], model["error_code"]) == (first.sha256, "r-0", "")
    assert eventually(lambda: is_gone(frozen))
    assert settled_requests(site) == asked
    assert (agent.state / "models" / "digits" / "A" / "bundle").stat().st_ino == inode
    assert without_time(agent.record()) == without_time(before)
    assert agent.infer()["model_version"] == "1.0.0"
    told = [(event.detail.get("code"), event.detail.get("reason", "")) for event in agent.events()]
    assert eventually(lambda: agent.reported().phase == phase)
    assert "install failed" not in agent.log.read_text(), told
    # and later it is installed as ever
    offer(agent, second, rollout="r-1", attempt=2)
    agent.wait(phase, "1.1.0")


def test_a_first_install_that_is_withdrawn_leaves_nothing(site: Site, agent: Agent) -> None:
    agent.start()
    offer(agent, release(site, "1.0.0"))
    frozen = eventually(lambda: agent.model().get("phase") == "golden" and agent.freeze(WORKER))
    assert frozen, agent.log.read_text()
    offer(agent, None)
    model = agent.wait("idle")
    assert (model["active_target"], model["wanted_sha256"], model["error_code"]) == ("", "", "")
    assert eventually(lambda: is_gone(frozen))
    assert agent.status()["workers"] == {}


def test_a_wish_held_before_it_began_waits_and_goes_on_at_once(site: Site, agent: Agent, first: Ref) -> None:
    serving(agent)
    site.house.fleet.hold.set(["r-1"], [])
    assert eventually((agent.state / "hold.ok").exists)
    second = release(site, "1.1.0", 2.0)
    gen = offer(agent, second, rollout="r-1")
    assert eventually(lambda: agent.status().get("gen") == gen)
    assert eventually(lambda: agent.model().get("error_code") == "install.held")
    model = agent.wait("committed", "1.0.0")
    assert (model["wanted_sha256"], model["rollout"]) == (first.sha256, "r-0")
    assert eventually(lambda: agent.reported().error_code == "install.held")
    assert agent.reported().phase == "committed"
    site.house.fleet.hold.set([], [])
    model = agent.wait("committed", "1.1.0")
    assert (model["wanted_sha256"], model["rollout"], model["error_code"]) == (second.sha256, "r-1", "")
    assert "install failed" not in agent.log.read_text()


def test_a_first_wish_that_is_held_is_told_too(site: Site, agent: Agent) -> None:
    site.house.fleet.hold.set(["r-1"], [])
    agent.start()
    assert eventually((agent.state / "hold.ok").exists)
    offer(agent, release(site, "1.0.0"), rollout="r-1")
    model = agent.wait("idle")
    assert model["error_code"] == "install.held"
    site.house.fleet.hold.set([], [])
    agent.wait("committed", "1.0.0")


def test_a_hold_outlives_a_kill_and_ends_with_the_next_one(site: Site, agent: Agent, first: Ref) -> None:
    serving(agent)
    offer(agent, release(site, "1.1.0", 2.0), rollout="r-1")
    assert eventually(lambda: agent.model().get("phase") == "golden" and agent.freeze(WORKER))
    assert agent.record().phase == "golden"
    torn = (agent.state / "models" / "digits" / "current.msgpack").read_bytes()
    site.house.fleet.hold.set(["r-1"], [])
    assert eventually(lambda: agent.model().get("error_code") == "install.held")
    agent.kill()
    # as if it had been killed between the hold and the stop
    (agent.state / "models" / "digits" / "current.msgpack").write_bytes(torn)
    agent.start()
    assert eventually(lambda: agent.model().get("error_code") == "install.held")
    agent.wait("committed", "1.0.0")
    site.house.fleet.hold.set([], [])
    agent.wait("committed", "1.1.0")


def test_a_hold_leaves_a_running_trial_alone(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_PROBATION_S": "4"}
    agent.start()
    offer(agent, release(site, "1.0.0"), rollout="r-1")
    agent.wait("probation", "1.0.0")
    site.house.fleet.hold.set(["r-1"], [])
    assert eventually((agent.state / "hold.ok").exists)
    model = agent.wait("committed", "1.0.0")
    assert model["error_code"] == ""


def test_the_newest_wish_for_what_is_installed_is_the_one_that_is_reported(
    site: Site, agent: Agent, first: Ref
) -> None:
    serving(agent)
    gen = offer(agent, first, rollout="r-9", attempt=5)
    assert eventually(lambda: agent.model().get("gen") == gen)
    model = agent.model()
    assert (model["phase"], model["rollout"], model["attempt"]) == ("committed", "r-9", 5)


def test_the_telemetry_wish_is_verified_and_kept(site: Site, agent: Agent, first: Ref) -> None:
    serving(agent)
    until = site.house.clock.now().replace(microsecond=0)
    wish = TelemetryRequest(profile="live", until=until)
    gen = site.house.fleet.desired.set_models([ModelChange(agent.id, ModelName("digits"), first, wish)])[0].gen
    assert eventually(lambda: agent.status().get("gen") == gen)
    desired = agent.desired()
    assert (desired.telemetry_profile, desired.telemetry_until_s) == ("live", int(until.timestamp()))


def test_a_withdrawn_release_goes_on_marked_also_offline_until_something_better_is_there(
    site: Site, agent: Agent, first: Ref
) -> None:
    serving(agent)
    second = release(site, "1.1.0", 2.0)
    offer(agent, second)
    agent.wait("committed", "1.1.0")
    site.house.signing.withdraw_targets(TargetWithdrawal("digits", [second.target], ["1.1.0"]))
    offer(agent, second)
    why = f"{second.target} belongs to a release that was withdrawn"
    assert eventually(lambda: agent.model().get("withdrawn") == why)
    assert (agent.model()["phase"], agent.model()["serving"]) == ("committed", True)
    assert eventually(lambda: [one.kind for one in agent.events()].count("withdrawn") == 1)
    assert eventually(lambda: site.house.fleet.reader.device(agent.id).facts.get("withdrawn") == {"digits": why})
    assert agent.stop() == 0
    site.broker.stop()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    shown = agent.command("status").stdout
    assert "withdrawn: digits/1.1.0/" in shown
    back = agent.command("rollback")
    assert back.returncode == 0, back.stderr
    assert agent.wait("rolled_back", "1.0.0")["withdrawn"] == ""
