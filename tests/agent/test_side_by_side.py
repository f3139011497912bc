"""Several models on one device, the removal of one, and a device on which old and new do not fit side by side."""

import threading
import urllib.error

from edgefleet_protocol.desired import Ref
from tests.agent.field import Agent, eventually, offer, publish
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site


def bring(site: Site, agent: Agent, name: str, version: str, scale: float = 1.0) -> Ref:
    """Bring one version of one model to service and return how a document names it."""
    found = publish(site, version, bundle_bytes(classifier_onnx(scale), name=name, version=version), name)
    offer(agent, found, model=name)
    agent.wait("committed", version, name)
    return found


def test_models_live_side_by_side_and_one_is_removed_with_its_slots(site: Site, agent: Agent) -> None:
    agent.start()
    bring(site, agent, "digits", "1.0.0")
    bring(site, agent, "letters", "3.0.0", 2.0)
    newest = bring(site, agent, "letters", "3.1.0", 3.0)
    assert agent.infer("digits")["model_version"] == "1.0.0"
    assert eventually(lambda: agent.infer("letters")["model_version"] == "3.1.0")
    assert {name: agent.model(name)["mode"] for name in ("digits", "letters")} == {
        "digits": "normal",
        "letters": "normal",
    }
    folder = agent.state / "models" / "letters"
    assert {entry.name for entry in folder.iterdir()} == {"A", "B", "active", "current.msgpack"}

    offer(agent, None, model="letters")
    assert eventually(lambda: not folder.exists()), agent.log.read_text()[-2000:]
    assert agent.infer("digits")["model_version"] == "1.0.0"
    assert list(agent.status()["workers"]) == ["digits"]
    assert eventually(lambda: agent.reported("letters") is None or agent.reported("letters").phase == "idle")
    assert agent.reported("digits").phase == "committed"
    # nothing of it comes back by itself, and it may be wanted again
    agent.kill()
    agent.start()
    assert eventually(lambda: agent.model("digits").get("serving"))
    assert agent.model("letters") == {}
    offer(agent, newest, model="letters")
    agent.wait("committed", "3.1.0", "letters")
    assert agent.infer("letters")["model_version"] == "3.1.0"


def test_where_both_do_not_fit_the_old_worker_leaves_first_and_no_caller_is_refused(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_SLOT_STRATEGY": "stop_first"}
    agent.start()
    bring(site, agent, "digits", "1.0.0")
    problems: list[str] = []
    answered: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answered.append(agent.infer(wait_s=60.0)["model_version"])
            except urllib.error.HTTPError as error:
                problems.append(f"{error.code} {error.read()[:200]!r}")
            except OSError as error:
                problems.append(str(error))

    # a caller waits for as long as a worker takes to start, which on a busy machine is long
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        old = agent.status()["workers"]["digits"]
        bring(site, agent, "digits", "1.1.0", 2.0)
        assert agent.record().strategy == "stop_first"
        assert agent.status()["workers"]["digits"] != old
        # the new one is refused in its golden test: the old one must come back
        bad = bundle_bytes(classifier_onnx(3.0), version="1.2.0", golden_shift=0.5)
        offer(agent, publish(site, "1.2.0", bad))
        assert agent.wait("failed", "1.1.0")["error_class"] == "golden"
        assert eventually(lambda: agent.model()["serving"])
        assert agent.infer()["model_version"] == "1.1.0"
    finally:
        over.set()
        asking.join()
    assert problems == []
    assert answered[0] == "1.0.0"
    assert answered[-1] == "1.1.0"
    assert set(answered) == {"1.0.0", "1.1.0"}
