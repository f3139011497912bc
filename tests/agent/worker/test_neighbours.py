"""Several workers on one device: forwarding by the routing table, swaps under load, split by share."""

import http.client
import json
import threading

from edgefleet_agent.worker.control.protocol import (
    Drain,
    GetStats,
    LaneRoute,
    ModelRoute,
    RoutesTable,
    Stats,
    write_routes,
)
from tests.agent.worker.conftest import WAIT_S, Rig, RunningWorker
from tests.agent.worker.models import bundle_bytes, classifier_onnx

X = [[1.0, 2.0, 3.0, 4.0]]


def _lane(worker: RunningWorker, state: str = "ready") -> LaneRoute:
    start = worker.start
    return LaneRoute(start.own_socket_path, start.version, start.digest, start.slot, state)  # type: ignore[arg-type]


def test_a_request_for_another_model_is_forwarded(rig: Rig) -> None:
    one = rig.start(bundle_bytes(classifier_onnx()))
    two = rig.start(bundle_bytes(classifier_onnx(), name="other"), model="other", public=False)
    one.serve()
    two.serve()
    assert rig.infer(X, model="other")[0] == 404
    write_routes(
        rig.routes_path,
        RoutesTable(models={"digits": ModelRoute({"active": _lane(one)}), "other": ModelRoute({"active": _lane(two)})}),
    )
    for _ in range(3):
        status, answer, _ = rig.infer(X, model="other")
        assert (status, answer["parameters"]["digest"]) == (200, two.start.digest)
    assert rig.request("GET", "/v2/models/other")[1]["name"] == "other"
    assert rig.request("POST", "/v2/models/other/infer", b"{}")[0] == 400
    assert [row["name"] for row in rig.request("GET", "/v2/repository/index")[1]] == ["digits", "other"]
    one.link.send(GetStats())
    assert one.until(Stats).forwarded == 5
    two.link.process.kill()
    two.exit_status()
    status, answer, headers = rig.infer(X, model="other")
    assert (status, headers["retry-after"]) == (503, "1")
    assert "cannot be reached" in answer["error"]
    assert rig.infer(X)[0] == 200


def test_readiness_and_a_model_that_is_still_starting(rig: Rig) -> None:
    one = rig.start(bundle_bytes(classifier_onnx()))
    one.serve()
    table = RoutesTable(
        models={
            "digits": ModelRoute({"active": _lane(one)}),
            "other": ModelRoute({"active": LaneRoute("/none", "1", "", "A", "starting")}),
        }
    )
    write_routes(rig.routes_path, table)
    assert rig.request("GET", "/v2/models/other")[0] == 503
    assert rig.request("GET", "/v2/health/ready")[0] == 503
    assert rig.request("GET", "/v2/repository/index")[1][1]["state"] == "LOADING"


def test_a_table_that_points_in_a_circle_ends_with_404(rig: Rig) -> None:
    one = rig.start(bundle_bytes(classifier_onnx()))
    one.serve()
    write_routes(rig.routes_path, RoutesTable(models={"ghost": ModelRoute({"active": _lane(one)})}))
    assert rig.infer(X, model="ghost")[0] == 404


def test_a_version_is_found_in_its_lane_and_split_follows_the_key(rig: Rig) -> None:
    old = rig.start(bundle_bytes(classifier_onnx()))
    new = rig.start(
        bundle_bytes(classifier_onnx(2.0), version="1.1.0"),
        version="1.1.0",
        lane="candidate",
        slot="B",
        public=False,
    )
    old.serve()
    new.serve()
    lanes = {"active": _lane(old), "candidate": _lane(new)}
    write_routes(
        rig.routes_path, RoutesTable(models={"digits": ModelRoute(lanes, mode="split", share_pct=50, salt="s")})
    )
    rig.request("GET", "/v2/models/nothing")  # makes the worker look at the new table now
    assert rig.infer(X, suffix="/versions/1.1.0")[1]["model_version"] == "1.1.0"
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X[0]}]}).encode()
    by_key = {}
    for key in range(40):
        headers = {"X-Edgefleet-Key": str(key)}
        answers = {rig.request("POST", "/v2/models/digits/infer", body, headers)[1]["model_version"] for _ in range(2)}
        assert len(answers) == 1
        by_key[key] = answers.pop()
    assert set(by_key.values()) == {"1.0.0", "1.1.0"}
    assert rig.infer(X, suffix="/versions/1.0.0")[1]["model_version"] == "1.0.0"
    key = next(key for key, version in by_key.items() if version == "1.1.0")
    new.link.process.kill()
    new.exit_status()
    status, answer, _ = rig.request("POST", "/v2/models/digits/infer", body, {"X-Edgefleet-Key": str(key)})
    assert (status, answer["parameters"]["lane"]) == (200, "active")


def test_swaps_under_load_fail_no_request(rig: Rig) -> None:
    """Two callers, one kept-alive and one with a connection each time, over five swaps; no client retries."""
    bundles = [bundle_bytes(classifier_onnx(1.0 + i), version=f"1.{i}.0") for i in range(6)]
    current = rig.start(bundles[0], version="1.0.0")
    current.serve()
    stop = threading.Event()
    failures: list[object] = []
    versions: list[list[str]] = [[], []]
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X[0]}]}).encode()

    def call(index: int, *, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=WAIT_S)
        while not stop.is_set():
            try:
                connection.request("POST", "/v2/models/digits/infer", body)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    failures.append(answer)
                else:
                    versions[index].append(answer["model_version"])
            except (OSError, http.client.HTTPException) as e:
                failures.append(repr(e))
                connection.close()
            if not keep:
                connection.close()
        connection.close()

    threads = [threading.Thread(target=call, args=(i,), kwargs={"keep": i == 0}) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        for i in range(1, 6):
            fresh = rig.start(bundles[i], version=f"1.{i}.0")
            fresh.serve()
            current.link.send(Drain())
            assert current.exit_status() == 0
            current = fresh
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    for seen in versions:
        assert seen[-1] == "1.5.0" or rig.infer(X)[1]["model_version"] == "1.5.0"
        assert len(seen) > 20
        assert set(seen) <= {f"1.{i}.0" for i in range(6)}
