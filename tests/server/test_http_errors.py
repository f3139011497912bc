"""Every refusal is a problem document with a next step; every error code has a status."""

import importlib
import pkgutil
from pathlib import Path

from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

import edgefleet_server
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.model import Role
from edgefleet_server.composition.device_app import create_device_app
from edgefleet_server.web.problems import PROBLEM_TYPE, STATUS, status_of
from tests.support.servers import ApiClient, ApiHouse

KEYS = {"type", "title", "status", "detail", "why", "code", "request_id", "next", "errors"}


def check(answer: object, status: int, code: str) -> dict[str, object]:
    """Return the problem document after checking its shape."""
    assert answer.status_code == status, answer.text  # type: ignore[attr-defined]
    assert answer.headers["content-type"] == PROBLEM_TYPE  # type: ignore[attr-defined]
    body: dict[str, object] = answer.json()  # type: ignore[attr-defined]
    assert set(body) == KEYS
    assert body["code"] == code
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]  # type: ignore[attr-defined]
    return body


def test_unknown_routes_wrong_methods_and_bad_fields_are_problems(house: ApiHouse) -> None:
    admin = house.client(Role.ADMIN)
    check(admin.get("/api/v1/nothing"), 404, "request.no_such_route")
    check(admin.post("/api/v1/models"), 405, "request.method_not_allowed")
    body = check(admin.post("/api/v1/releases", json={"model": "m", "colour": 1}), 422, "request.invalid")
    assert {error["where"] for error in body["errors"]} >= {"body.version", "body.colour"}  # type: ignore[attr-defined]
    check(admin.get("/api/v1/models", params={"cursor": "%%%"}), 422, "request.bad_cursor")
    check(admin.get("/api/v1/releases", params={"cursor": "YWJj"}), 422, "request.bad_cursor")
    check(admin.get("/api/v1/models", params={"limit": 0}), 422, "request.invalid")
    check(admin.get("/api/v1/releases/noversion"), 422, "id.bad")
    check(admin.get("/api/v1/releases/no@1"), 404, "release.unknown")
    check(admin.get("/api/v1/models/no"), 404, "model.unknown")
    check(admin.get("/api/v1/profiles/no"), 404, "profile.unknown")


def test_a_bug_answers_without_its_details(house: ApiHouse) -> None:
    app = house.own_app()

    @app.get("/broken")
    def broken() -> None:
        raise KeyError("secret detail")

    body = check(ApiClient(app, house.token(Role.ADMIN)).get("/broken"), 500, "internal")
    assert "secret detail" not in str(body)


def test_a_hostile_request_id_is_replaced(house: ApiHouse) -> None:
    answer = house.client(Role.ADMIN).get("/healthz", headers={"x-request-id": "a b\tc"})
    assert answer.headers["x-request-id"] != "a b\tc"
    assert house.client().get("/healthz", headers={"x-request-id": "ok-1"}).headers["x-request-id"] == "ok-1"


def test_every_error_code_of_the_server_has_a_status() -> None:
    for module in pkgutil.walk_packages(edgefleet_server.__path__, "edgefleet_server."):
        if ".migrations." not in module.name:
            importlib.import_module(module.name)
    kinds = [EdgefleetError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    ours = {kind.code for kind in kinds if kind.__module__.startswith("edgefleet_server")}
    process_only = {"server.", "backup.", "broker.", "conversion.", "gateway."}
    missing = {code for code in ours if status_of(code) is None and not code.startswith(tuple(process_only))}
    assert not missing
    reachable = {
        kind.code
        for kind in kinds
        if kind.__module__.startswith(("edgefleet_server", "edgefleet_protocol", "edgefleet_profiles"))
    }
    assert set(STATUS) <= reachable, "a row that no error has"


def test_a_failing_database_is_a_matter_of_trying_again_on_both_listeners(house: ApiHouse) -> None:
    def broken() -> None:
        raise OperationalError("SELECT secret", {}, Exception("gone"))

    for app in (
        house.own_app(),
        create_device_app(house.parts.fleet, house.parts.signing, house.parts.registry),
    ):
        app.get("/broken")(broken)
        answer = TestClient(app, raise_server_exceptions=False).get("/broken")
        assert (answer.status_code, answer.json()["code"]) == (503, "server.database_unavailable")
        assert answer.headers["retry-after"]
        assert "secret" not in answer.text


def test_health_readiness_and_metrics(house: ApiHouse) -> None:
    client = house.client()
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200

    def fails() -> str:
        raise OSError("disk gone")

    house.parts.health.add("disk", fails)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["disk"]["detail"] == "OSError: disk gone"

    def asks_the_database() -> str:
        raise OperationalError("SELECT secret", {}, Exception("gone"))

    house.parts.health.add("keys", asks_the_database)
    assert client.get("/readyz").json()["checks"]["keys"]["detail"] == "the database failed: OperationalError"
    text = client.get("/metrics").text
    assert 'edgefleet_conversion_jobs{state="queued"} 0.0' in text
    assert 'edgefleet_http_requests_total{operation="get_readiness",status="503"} 2.0' in text


def test_the_server_never_imports_model_code(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, edgefleet_server.main, edgefleet_server.process.lifecycle.server_lifecycle, edgefleet_server.composition.device_app,"
        " edgefleet_server.process.conversion_worker, edgefleet_server.gateway.service\n"
        "print([m for m in ('onnx','onnxruntime','numpy','edgefleet_converters') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
