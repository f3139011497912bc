"""`GET /metrics` of the inference port: real workers, read by Prometheus's own parser and checker."""

import json
import re
import shutil
import subprocess

import httpx
from prometheus_client.parser import text_string_to_metric_families

from edgefleet_agent import __version__
from edgefleet_agent.worker.control.protocol import GetStats, LaneRoute, ModelRoute, RoutesTable, Stats, write_routes
from tests.agent.worker.conftest import Rig, RunningWorker
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.test_page import HOSTILE, STATUS
from tests.house.tree import ROOT

X = [[1.0, 2.0, 3.0, 4.0]]
Samples = dict[str, dict[tuple[str, ...], float]]


def scraped(rig: Rig) -> Samples:
    answer = httpx.get(f"http://127.0.0.1:{rig.port}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    if shutil.which("promtool") is not None:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=answer.text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            assert sample.name.startswith("edgefleet_agent_")
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def _lane(worker: RunningWorker) -> LaneRoute:
    start = worker.start
    return LaneRoute(start.own_socket_path, start.version, start.digest, start.slot, "ready")


def test_all_models_and_the_agent_are_scraped_from_one_port(rig: Rig) -> None:
    one = rig.start(bundle_bytes(classifier_onnx()), metrics=True)
    two = rig.start(bundle_bytes(classifier_onnx(), name="other"), model="other", public=False, metrics=True)
    one.serve()
    two.serve()
    routes = {"digits": ModelRoute({"active": _lane(one)}), "other": ModelRoute({"active": _lane(two)})}
    write_routes(rig.routes_path, RoutesTable(models=routes))
    status = {
        **STATUS,
        "agent_version": __version__,
        "models": [{"model": HOSTILE, "phase": "committed", "serving": True}],
    }
    rig.routes_path.with_name("status.json").write_text(json.dumps(status))
    for _ in range(5):
        assert rig.infer(X)[0] == 200
    assert rig.infer(X, model="other")[0] == 200
    assert rig.infer([[1.0]])[0] == 400
    before = scraped(rig)
    assert before["edgefleet_agent_predictions_total"] == {("digits", "1.0.0"): 5, ("other", "1.0.0"): 1}
    assert before["edgefleet_agent_bad_requests_total"][("digits", "1.0.0")] == 1
    assert before["edgefleet_agent_latency_seconds_count"] == before["edgefleet_agent_predictions_total"]
    assert before["edgefleet_agent_latency_seconds_sum"][("digits", "1.0.0")] > 0
    assert before["edgefleet_agent_build_info"] == {(__version__,): 1}
    assert before["edgefleet_agent_connected"] == {(): 1}
    assert before["edgefleet_agent_outbox_messages"] == {(): 3}
    assert before["edgefleet_agent_model_serving"] == {(HOSTILE, "committed"): 1}
    assert before["edgefleet_agent_memory_available_bytes"][()] > 0
    described = (ROOT / "docs" / "operate" / "monitoring.md").read_text("utf-8")
    assert [name for name in before if f"`{re.sub('_(bucket|sum|count)$', '', name)}`" not in described] == []
    one.link.send(GetStats())  # agentd takes what was counted; counters go on
    assert one.until(Stats).n == 5
    assert rig.infer(X)[0] == 200
    after = scraped(rig)
    assert after["edgefleet_agent_predictions_total"][("digits", "1.0.0")] == 6
    assert after["edgefleet_agent_latency_seconds_count"][("digits", "1.0.0")] == 6


def test_it_is_there_only_where_it_is_allowed(rig: Rig) -> None:
    one = rig.start(bundle_bytes(classifier_onnx()))
    one.serve()
    assert rig.request("GET", "/metrics")[0] == 404


def test_only_get(rig: Rig) -> None:
    one = rig.start(bundle_bytes(classifier_onnx()), metrics=True)
    one.serve()
    assert rig.request("POST", "/metrics", b"")[0] == 405
    rig.routes_path.with_name("status.json").write_text("not JSON")
    assert "edgefleet_agent_connected" not in scraped(rig), "an agent that just starts has written nothing"
