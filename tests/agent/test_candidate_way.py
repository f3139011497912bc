"""Shadow and split from the operator's wish to the figures at the server: real agents, real workers, real broker."""

import json
import os
import signal
import time
import urllib.request
from typing import Any

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.fleet.desired.model import CandidateOrder
from tests.agent.field import Agent, deploy, eventually, publish
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

TOP_K = json.dumps({"v": 1, "outputs": [{"name": "y", "steps": [{"op": "top_k", "k": 3}]}]}).encode()
EXTRA = {"postprocess.json": TOP_K, "labels.txt": b"a\nb\nc\n"}


def beside(site: Site, version: str, mode: Any, share_pct: int = 0) -> Any:
    """Run a published version beside the active one everywhere."""
    return site.house.fleet.deployer.deploy(
        ReleaseRef.parse(f"digits@{version}"), selector="", order=CandidateOrder(mode, share_pct)
    )


def candidate(agent: Agent) -> dict[str, Any]:
    """Return what the agent says of its candidate."""
    return agent.model().get("candidate") or {}


def serve_and_publish(site: Site, agent: Agent, scale: float = -1.0) -> None:
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), extra=EXTRA))
    agent.wait("committed", "1.0.0")
    publish(site, "1.1.0", bundle_bytes(classifier_onnx(scale), version="1.1.0", extra=EXTRA))


def keyed(agent: Agent, key: str) -> dict[str, Any]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0.0, 0.0, 0.0]}]}
    request = urllib.request.Request(
        f"{agent.status()['infer_url']}/v2/models/digits/infer",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "X-Edgefleet-Key": key},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def compared(site: Site, agent: Agent) -> dict[str, int]:
    """Return the sums of what the server has of the candidate's lane."""
    windows = [w for _, w in site.house.telemetry.windows(agent.id, None, 200)[0] if w.lane == "candidate"]
    names = ("offered", "dropped", "compared", "judged", "agreed")
    return {name: sum(getattr(w.shadow, name) for w in windows if w.shadow) for name in names}


def test_a_shadow_compares_tells_the_server_and_a_crash_costs_no_answer(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "1"}
    agent.start()
    serve_and_publish(site, agent)
    assert beside(site, "1.1.0", "shadow").skipped == []
    assert eventually(lambda: candidate(agent).get("state") == "running"), agent.log.read_text()[-3000:]
    for i in range(20):
        answer = agent.infer(x=(1.0 + i, 0.0, 0.0, 0.0))
        assert (answer["model_version"], answer["parameters"]["lane"]) == ("1.0.0", "active")
        time.sleep(0.01)
    assert eventually(lambda: compared(site, agent)["compared"] >= 1)
    assert eventually(lambda: sum(compared(site, agent)[n] for n in ("compared", "dropped")) >= 20)
    sums = compared(site, agent)
    assert sums["offered"] == 20
    assert sums["agreed"] < sums["judged"]
    told = site.house.fleet.reader.device(agent.id).models[0].candidate
    assert told is not None
    assert (told.release, told.mode, told.state) == ("digits@1.1.0", "shadow", "running")

    told_here = json.loads(agent.command("shadow", "digits", "-o", "json").stdout)["candidates"][0]
    assert (told_here["mode"], told_here["state"]) == ("shadow", "running")
    assert "with shadow digits/1.1.0/" in agent.command("shadow").stdout
    assert agent.command("shadow", "other").returncode == 5

    pid = agent.status()["candidates"]["digits"]
    os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        assert agent.infer()["model_version"] == "1.0.0"
    assert eventually(lambda: agent.status().get("candidates", {}).get("digits") not in {None, pid})
    assert eventually(lambda: {"starting", "running"} <= states(agent))

    agent.kill()
    agent.start()
    assert eventually(lambda: candidate(agent).get("state") == "running"), agent.log.read_text()[-3000:]

    # the same candidate now answers its share: sticky by key, also when the share grows, and told lane by lane
    assert beside(site, "1.1.0", "split", 30).skipped == []
    assert eventually(lambda: candidate(agent).get("mode") == "split" and candidate(agent)["state"] == "running")
    few = chosen(agent)
    assert 0 < len(few) < 40
    assert few == chosen(agent)
    beside(site, "1.1.0", "split", 60)
    assert eventually(lambda: candidate(agent).get("share_pct") == 60)
    assert eventually(lambda: few < chosen(agent))
    assert len(chosen(agent)) < 40
    assert eventually(lambda: lanes(site, agent) == {"active", "candidate"})
    os.kill(agent.status()["candidates"]["digits"], signal.SIGKILL)
    assert all(keyed(agent, key)["parameters"]["lane"] in {"active", "candidate"} for key in sorted(few))

    assert beside(site, "1.1.0", "end").skipped == []
    assert eventually(lambda: not candidate(agent) and not agent.status()["candidates"])
    deploy_known(site, "1.1.0")
    agent.wait("committed", "1.1.0")
    assert agent.comes_to_answer("1.1.0")
    assert agent.stop() == 0


def chosen(agent: Agent) -> set[str]:
    """Return those of 40 keys that the candidate answers; both versions must answer with their own name."""
    found = set()
    for i in range(40):
        answer = keyed(agent, f"customer-{i}")
        lane, version = answer["parameters"]["lane"], answer["model_version"]
        assert (lane, version) in {("active", "1.0.0"), ("candidate", "1.1.0")}
        if lane == "candidate":
            found.add(f"customer-{i}")
    return found


def lanes(site: Site, agent: Agent) -> set[str]:
    """Return the lanes from which the server has answers to requests of a split."""
    windows = [w for _, w in site.house.telemetry.windows(agent.id, None, 8)[0] if w.n > 0 and not w.shadow]
    return {w.lane for w in windows}


def states(agent: Agent) -> set[str]:
    return {e.detail.get("detail", {}).get("state") for e in agent.events() if e.kind == "candidate"}


def deploy_known(site: Site, version: str) -> None:
    site.house.fleet.deployer.deploy(ReleaseRef.parse(f"digits@{version}"), selector="")


def test_a_release_is_measured_on_a_device_that_does_not_run_it(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_MEASURE_S": "0.01"}
    agent.start()
    publish(site, "1.1.0", bundle_bytes(classifier_onnx(), version="1.1.0", extra=EXTRA))
    for _ in range(2):  # asked again, it is measured again
        assert beside(site, "1.1.0", "measure").skipped == []
        assert eventually(lambda: candidate(agent).get("state") == "measured"), agent.log.read_text()[-3000:]
    assert eventually(lambda: len(measured(site, agent)) == 6)
    for window in measured(site, agent):
        assert (window.model, window.version) == ("digits", "1.1.0")
        assert window.latency_p50_ms is not None
        assert window.latency_p50_ms > 0
        assert window.worker_rss_bytes > 10_000_000

    def told() -> tuple[object, object]:
        model = site.house.fleet.reader.device(agent.id).models[0]
        return model.release, model.candidate and model.candidate.state

    # the second time "measured" is also what was said the first time, and the figures may come before the word
    assert eventually(lambda: told() == (None, "measured")), told()
    bundles = site.house.registry.release(ReleaseRef.parse("digits@1.1.0")).bundles
    observed = site.house.costs.performance(bundles)[0].observed
    assert observed is not None
    assert (observed.devices, observed.windows) == (1, 6)
    assert beside(site, "1.1.0", "end").skipped == []
    assert eventually(lambda: not candidate(agent))
    assert site.house.fleet.reader.device(agent.id).desired.models == []
    deploy_known(site, "1.1.0")
    agent.wait("committed", "1.1.0")


def measured(site: Site, agent: Agent) -> list[Any]:
    return [w for _, w in site.house.telemetry.windows(agent.id, None, 50)[0] if w.lane == "measure"]
