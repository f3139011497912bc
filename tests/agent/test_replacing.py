"""A new wish while a version is on probation: the proven version stays until there is another proven one."""

from edgefleet_protocol.desired import Ref
from edgefleet_protocol.ids import ReleaseRef
from tests.agent.field import Agent, deploy, eventually
from tests.agent.test_going_back import settled_requests
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE
from tests.server.gateway.conftest import Site

LONG = {"EDGEFLEET_AGENT_PROBATION_S": "3600", "EDGEFLEET_AGENT_REPLACE_S": "3600"}


def bundle(version: str, scale: float) -> bytes:
    """Return a good bundle."""
    return bundle_bytes(classifier_onnx(scale), version=version)


def with_proven_first_and_second_on_probation(site: Site, agent: Agent, **environment: str) -> None:
    """1.0.0 committed in slot A by the device that is copied, 1.1.0 on probation in slot B."""
    agent.environment = {**agent.environment, **environment}
    agent.start()
    deploy(site, "1.1.0", bundle("1.1.0", 2.0))
    agent.wait("probation", "1.1.0")


def test_two_deploys_in_a_row_do_not_wait_for_a_long_probation(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_PROBATION_S": "3600"}
    agent.start()
    deploy(site, "1.0.0", bundle("1.0.0", 1.0))
    agent.wait("probation", "1.0.0")
    deploy(site, "1.1.0", bundle("1.1.0", 2.0))
    agent.wait("probation", "1.1.0")
    assert agent.comes_to_answer("1.1.0")


def test_a_healthy_version_on_probation_is_committed_early_to_make_room(site: Site, agent: Agent, first: Ref) -> None:
    with_proven_first_and_second_on_probation(
        site, agent, EDGEFLEET_AGENT_PROBATION_S="3600", EDGEFLEET_AGENT_REPLACE_S="1"
    )
    deploy(site, "1.2.0", bundle("1.2.0", 3.0))
    model = agent.wait("probation", "1.2.0")
    assert model["previous_target"] == f"digits/1.1.0/{PROFILE}.bundle"
    assert agent.comes_to_answer("1.2.0")


def test_the_proven_version_is_not_overwritten_while_another_waits_and_is_gone_back_to_without_a_download(
    site: Site, agent: Agent, first: Ref
) -> None:
    with_proven_first_and_second_on_probation(site, agent, **LONG)
    deploy(site, "1.2.0", bundle("1.2.0", 3.0))
    newest = site.house.fleet.documents.of_device(agent.id)
    assert newest is not None
    assert eventually(lambda: agent.status().get("gen") == newest.gen)
    slot = agent.state / "models" / "digits" / "A" / "bundle"
    before, asked = slot.stat(), settled_requests(site)
    assert agent.model()["phase"] == "probation"
    # the way back: the same file. It was proven here, so that it serves again is all it has to show
    site.house.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), selector="")
    back = site.house.fleet.documents.of_device(agent.id)
    assert back is not None
    model = agent.wait("committed", "1.0.0")
    assert (model["slot"], model["gen"], model["error_code"]) == ("A", back.gen, "")
    assert model["previous_target"] == "", "what never lived through its trial is no way back"
    active = agent.record().active
    assert active is not None
    assert active.proven
    after = slot.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert settled_requests(site) == asked
    assert agent.infer()["model_version"] == "1.0.0"


def test_a_version_gone_back_to_is_on_trial_until_it_serves_again(site: Site, agent: Agent, first: Ref) -> None:
    with_proven_first_and_second_on_probation(site, agent, **LONG, EDGEFLEET_AGENT_PROBATION_MIN_S="4")
    site.house.fleet.deployer.deploy(ReleaseRef.parse("digits@1.0.0"), selector="")
    agent.wait("probation", "1.0.0")
    since_s = agent.record().seen.since_s
    agent.wait("committed", "1.0.0")
    assert agent.record().phase_since_s - since_s >= 4
    told = [event.detail.get("phase") for event in agent.events()]
    assert "rolled_back" not in told, told
