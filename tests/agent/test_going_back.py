"""Going back: by the device's own rules without a network, by the server's word without a byte, by an operator's hand."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving.supervisor import BACKOFF_S
from edgefleet_protocol.desired import Ref
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.fleet.inventory.views import ReportedProbation
from tests.agent.field import Agent, deploy, eventually, offer, publish
from tests.agent.worker.models import bundle_bytes, classifier_onnx, crash_onnx, nan_onnx
from tests.server.gateway.conftest import Site

LONG = {"EDGEFLEET_AGENT_PROBATION_S": "3600", "EDGEFLEET_AGENT_PROBATION_INFERENCES": "100000"}
CALM_S = 1.0
GOOD = (1.0, 2.0, 3.0, 4.0)
BAD = (-1.0, 2.0, 3.0, 4.0)
"""The model of `nan_release` answers NaN for it."""


def nan_release(site: Site, version: str = "1.1.0") -> Ref:
    """Publish a version that passes its golden vectors and answers NaN for negative numbers."""
    return publish(site, version, bundle_bytes(nan_onnx(), version=version))


def on_long_trials(agent: Agent, **environment: str) -> None:
    """Start an agent that has proven 1.0.0 before; later versions are on trial for long."""
    agent.environment = {**agent.environment, **LONG, **environment}
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))


def ask(agent: Agent, *inputs: tuple[float, ...]) -> None:
    """Ask for answers, whatever they are."""
    for x in inputs:
        agent.infer(x=x)


def requests(site: Site) -> int:
    """Return how many requests for blocks the server has seen."""
    return int(site.gateway.counters()["block_requests"])


def settled_requests(site: Site) -> int:
    """Return how many requests for blocks the server has seen once that has stood still: nothing is on its way any more."""
    known, since = requests(site), time.monotonic()
    while time.monotonic() - since < CALM_S:
        time.sleep(0.05)
        if requests(site) != known:
            known, since = requests(site), time.monotonic()
    return known


def errors(model: Any) -> tuple[str, str]:
    """Return error class and code."""
    return str(model["error_class"]), str(model["error_code"])


def test_bad_answers_before_and_after_a_kill_send_a_version_back_without_a_network(
    site: Site, agent: Agent, first: Ref
) -> None:
    on_long_trials(agent)
    bad = nan_release(site)
    offer(agent, bad, rollout="r-1", attempt=2)
    agent.wait("probation", "1.1.0")
    site.broker.stop()
    # one odd answer is no reason, whatever share it is
    ask(agent, GOOD, BAD, GOOD)
    assert eventually(lambda: agent.record().seen.n == 3)
    assert agent.record().seen.nonfinite == 1
    assert agent.model()["phase"] == "probation"
    agent.kill()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.model()["phase"] == "probation"
    ask(agent, GOOD, BAD)
    model = agent.wait("rolled_back", "1.0.0")
    assert errors(model) == ("nonfinite", "trial.nonfinite")
    assert model["reason"] == "2 of 5 answers not finite"
    assert (model["wanted_sha256"], model["attempt"], model["rollout"]) == (bad.sha256, 2, "r-1")
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.infer()["model_version"] == "1.0.0"
    assert not agent.status()["connected"]
    # what it learnt outlives it: the document at hand still wants the bad version
    agent.kill()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    again = agent.wait("rolled_back", "1.0.0")
    assert {**again, "serving": True} == {**model, "serving": True}
    assert [(q.sha256, q.attempt, q.code) for q in agent.record().quarantine] == [(bad.sha256, 2, "trial.nonfinite")]


def test_the_server_learns_of_a_rollback_and_its_answer_is_noted(site: Site, agent: Agent, first: Ref) -> None:
    on_long_trials(agent)
    bad = nan_release(site)
    offer(agent, bad, rollout="r-1", attempt=3)
    agent.wait("probation", "1.1.0")
    assert eventually(lambda: agent.reported().probation == ReportedProbation(0, 100_000, 3600))
    ask(agent, BAD, BAD)
    agent.wait("rolled_back", "1.0.0")
    assert eventually(lambda: agent.reported().phase == "rolled_back")
    told = agent.reported()
    assert (told.wanted_sha256, str(told.error_class), told.error_code) == (bad.sha256, "nonfinite", "trial.nonfinite")
    assert eventually(lambda: {"rollback", "quarantined"} <= {event.kind for event in agent.events()})
    event = next(event for event in agent.events() if event.kind == "quarantined")
    assert (event.detail["sha256"], event.detail["code"]) == (bad.sha256, "trial.nonfinite")
    assert "2 of 2 answers not finite" in json.dumps(event.detail)
    # the same wish again: a newer document that wants what serves
    before = requests(site)
    gen = offer(agent, first)
    assert eventually(lambda: agent.model().get("gen") == gen)
    model = agent.wait("rolled_back", "1.0.0")
    assert (model["wanted_sha256"], errors(model)[1]) == (first.sha256, "trial.nonfinite")
    assert requests(site) == before
    # the next release is tried as ever
    offer(agent, publish(site, "1.2.0", bundle_bytes(classifier_onnx(3.0), version="1.2.0")), rollout="r-2")
    model = agent.wait("probation", "1.2.0")
    assert errors(model) == ("None", "")


@pytest.mark.parametrize(("probation_s", "phase"), [("3600", "probation"), ("0", "committed")])
def test_the_servers_way_back_costs_no_byte(site: Site, agent: Agent, first: Ref, probation_s: str, phase: str) -> None:
    on_long_trials(agent, EDGEFLEET_AGENT_PROBATION_S=probation_s)
    offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")), rollout="r-1")
    agent.wait(phase, "1.1.0")
    agent.stop()
    # not even on a disk without room
    agent.environment = {
        **agent.environment,
        **LONG,
        "EDGEFLEET_AGENT_DISK_RESERVE_BYTES": str(1 << 50),
    }
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    before, loads = requests(site), agent.log.read_text().count("model loaded")
    gen = offer(agent, first)
    model = agent.wait("committed", "1.0.0")
    assert (model["gen"], model["wanted_sha256"], errors(model)) == (gen, first.sha256, ("None", ""))
    assert requests(site) == before
    # it was loaded and answered its golden vectors once more before it took over
    assert agent.log.read_text().count("model loaded") == loads + 1
    assert agent.infer()["model_version"] == "1.0.0"
    # a version that never lived through its trial is no way back
    assert model["previous_target"] == ("" if phase == "probation" else f"digits/1.1.0/{first.target.split('/')[2]}")


def test_a_version_that_became_slow_goes_back(site: Site, agent: Agent, first: Ref) -> None:
    # an emulator makes what is fast slower than what is slow: the margin is not stretched there, for the ratio is what counts
    limits = {"EDGEFLEET_AGENT_SLOW_LIMIT_MIN_N": "20", "EDGEFLEET_AGENT_SLOW_LIMIT_MARGIN_MS": "5"}
    on_long_trials(agent, **limits)
    # so many that the first answer, which an emulator is slow to translate, is not the 95th percentile
    ask(agent, *[GOOD] * 60)
    # 27 million numbers made and added up for each answer: slow on a fast machine too, where eight million are not
    offer(agent, publish(site, "1.1.0", bundle_bytes(crash_onnx(300), version="1.1.0")))
    agent.wait("probation", "1.1.0")
    # the last words of the worker before came with its drain; they are on the disk before it matters
    assert eventually(lambda: LatencySketch.unpacked(agent.record().before.latency).n == 60)
    agent.kill()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    ask(agent, *[GOOD] * 20)
    model = agent.wait("rolled_back", "1.0.0")
    assert errors(model) == ("slow", "trial.slow")
    assert "with the previous version" in model["reason"]


# ---- when nothing is left to go back to


def damage(agent: Agent, slot: str) -> None:
    """Change the first byte of the bundle in a slot."""
    bundle = agent.state / "models" / "digits" / slot / "bundle"
    bundle.chmod(0o644)
    with bundle.open("r+b") as file:
        file.write(b"x")


def crash(agent: Agent) -> None:
    """Kill the worker that serves and wait for the next one to serve."""
    pid = agent.status()["workers"]["digits"]
    os.kill(pid, signal.SIGKILL)
    served = eventually(lambda: agent.status()["workers"].get("digits", pid) != pid and agent.model()["serving"])
    assert served, f"{agent.model()}\n{agent.log.read_text()[-3000:]}"


def test_a_damaged_way_back_is_not_served_and_the_servers_answer_fetches_it_again(
    site: Site, agent: Agent, first: Ref
) -> None:
    on_long_trials(agent)
    bad = nan_release(site)
    offer(agent, bad)
    agent.wait("probation", "1.1.0")
    damage(agent, "A")
    ask(agent, BAD, BAD)
    model = agent.wait("rolled_back")
    assert (model["active_target"], errors(model)) == ("", ("nonfinite", "trial.nonfinite"))
    assert agent.status()["workers"] == {}
    assert [q.sha256 for q in agent.record().quarantine] == [bad.sha256]
    offer(agent, first)
    agent.wait("probation", "1.0.0")
    assert agent.infer()["model_version"] == "1.0.0"


def test_a_proven_version_that_fails_goes_on_when_its_way_back_is_damaged(site: Site, agent: Agent, first: Ref) -> None:
    on_long_trials(agent, EDGEFLEET_AGENT_PROBATION_S="0", EDGEFLEET_AGENT_CRASH_LIMIT="1")
    offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")))
    agent.wait("committed", "1.1.0")
    damage(agent, "A")
    crash(agent)
    model = agent.wait("committed", "1.1.0")
    assert (errors(model), model["previous_target"]) == (("crash", "trial.crash_loop"), "")
    assert agent.record().quarantine == []


def test_a_proven_version_that_was_gone_back_to_is_not_stopped_by_its_crashes(
    site: Site, agent: Agent, first: Ref
) -> None:
    on_long_trials(agent, EDGEFLEET_AGENT_PROBATION_MIN_S="3600", EDGEFLEET_AGENT_CRASH_LIMIT="1")
    offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")))
    agent.wait("probation", "1.1.0")
    offer(agent, first)
    agent.wait("probation", "1.0.0")
    assert eventually(lambda: agent.model()["serving"])
    crash(agent)
    model = agent.wait("probation", "1.0.0")
    assert errors(model) == ("crash", "trial.crash_loop")
    assert agent.record().quarantine == []
    assert agent.infer()["model_version"] == "1.0.0"


def test_the_crashes_of_a_version_do_not_delay_the_one_that_was_gone_back_to(
    site: Site, agent: Agent, first: Ref
) -> None:
    on_long_trials(agent)
    offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")))
    agent.wait("probation", "1.1.0")
    assert eventually(lambda: agent.model()["serving"])
    for _ in range(3):
        crash(agent)
    agent.wait("rolled_back", "1.0.0")
    since = time.monotonic()
    crash(agent)
    assert time.monotonic() - since < BACKOFF_S[-1] / 2, agent.log.read_text()


def test_crashes_of_the_old_version_are_not_told_of_the_new_one(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_CRASH_LIMIT": "1"}
    agent.start()
    offer(agent, publish(site, "1.0.0", bundle_bytes(classifier_onnx())))
    agent.wait("committed", "1.0.0")
    assert eventually(lambda: agent.model()["serving"])
    offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")))
    frozen = eventually(lambda: agent.model().get("phase") == "golden" and agent.freeze(b"edgefleet_agent.worker"))
    assert frozen, agent.log.read_text()
    crash(agent)
    assert errors(agent.model()) == ("None", "")
    # where that took long, on an emulator, the frozen one is taken for one that starves, and another was started
    with contextlib.suppress(ProcessLookupError):
        os.kill(frozen, signal.SIGCONT)
    model = agent.wait("committed", "1.1.0")
    assert errors(model) == ("None", "")


def test_a_torn_document_is_no_wish_to_stop(site: Site, agent: Agent, first: Ref) -> None:
    on_long_trials(agent)
    site.broker.stop()
    agent.kill()
    (agent.state / "desired.ok").write_bytes(b"torn")
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    time.sleep(1.0)  # the looks at the time that follow
    assert agent.model()["phase"] == "committed"
    assert agent.infer()["model_version"] == "1.0.0"


@pytest.mark.parametrize("phase", ["committed", "probation"])
def test_a_version_that_crashes_on_a_full_disk_is_started_again(
    site: Site, agent: Agent, first: Ref, phase: str
) -> None:
    on_long_trials(agent)
    if phase == "probation":
        offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")))
        agent.wait("probation", "1.1.0")
        assert eventually(lambda: agent.model()["serving"])
    # no record can be written any more, as on a full disk
    blocker = agent.state / "models" / "digits" / ".current.msgpack.tmp"
    blocker.mkdir()
    pid = agent.status()["workers"]["digits"]
    os.kill(pid, signal.SIGKILL)
    if phase == "probation":  # each start of it is counted on the disk first
        time.sleep(1.0)
        blocker.rmdir()
    assert eventually(lambda: agent.status()["workers"].get("digits", pid) != pid and agent.model()["serving"])


def test_a_stop_with_figures_that_cannot_be_written_ends_well(site: Site, agent: Agent, first: Ref) -> None:
    on_long_trials(agent)
    agent.infer()
    (agent.state / "models" / "digits" / ".current.msgpack.tmp").mkdir()
    assert agent.stop() == 0
    assert not list(StatePaths(agent.state).sockets().glob("*.sock"))


# ---- by hand


def test_an_operator_goes_back_by_hand(site: Site, agent: Agent, first: Ref) -> None:
    on_long_trials(agent)
    second = publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0"))
    offer(agent, second, rollout="r-1", attempt=4)
    agent.wait("probation", "1.1.0")
    done = agent.command("rollback", "--reason", "it counts dogs as cats", "-o", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["from_target"], answer["to_target"]) == ("digits", second.target, first.target)
    assert (answer["phase"], answer["serving"], answer["reason"]) == ("rolled_back", True, "it counts dogs as cats")
    assert agent.infer()["model_version"] == "1.0.0"
    model = agent.wait("rolled_back", "1.0.0")
    assert errors(model) == ("internal", "operator.rollback")
    assert (model["wanted_sha256"], model["attempt"], model["rollout"]) == (second.sha256, 4, "r-1")
    assert eventually(lambda: agent.reported().error_code == "operator.rollback")
    assert eventually(lambda: {"rollback", "quarantined"} <= {event.kind for event in agent.events()})
    # the document still wants it, in this life and in the next
    agent.stop()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.model()["active_sha256"] == first.sha256
    # there is nothing more to go back to
    done = agent.command("rollback", "digits")
    assert (done.returncode, done.stdout) == (5, "")
    assert "digits has no previous version on this device" in done.stderr
    assert "rollback.no_previous" in done.stderr
    assert "edgectl deploy" in done.stderr


def test_why_a_rollback_by_hand_cannot_be(site: Site, agent: Agent) -> None:
    done = agent.command("rollback")
    assert (done.returncode, "agent.not_running" in done.stderr) == (5, True)
    agent.start()
    assert eventually(lambda: agent.status().get("connected"))
    done = agent.command("rollback")
    assert (done.returncode, "no model serves" in done.stderr) == (5, True)
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx()))
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), name="other"), model="other")
    agent.wait("committed", "1.0.0")
    agent.wait("committed", "1.0.0", name="other")
    done = agent.command("rollback", "-o", "json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "rollback.which_model"
    assert "digits, other" in done.stderr
    done = agent.command("rollback", "unknown")
    assert (done.returncode, "rollback.unknown_model" in done.stderr) == (5, True)


def test_a_damaged_previous_version_is_not_gone_back_to(site: Site, agent: Agent, first: Ref) -> None:
    on_long_trials(agent)
    offer(agent, publish(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0")))
    agent.wait("probation", "1.1.0")
    damage(agent, "A")
    done = agent.command("rollback")
    assert (done.returncode, "rollback.damaged" in done.stderr) == (1, True)
    assert agent.comes_to_answer("1.1.0")


def test_the_control_socket_is_the_agents_own(site: Site, agent: Agent) -> None:
    agent.start()
    assert eventually(lambda: agent.status().get("connected"))
    path = Path(agent.status()["control_socket"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_uid == os.geteuid()
    assert agent.stop() == 0
    assert not path.exists()
