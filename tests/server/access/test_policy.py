"""Every route × every role, from the policy table and the app's own list of routes."""

import re
from collections.abc import Iterator
from inspect import iscoroutinefunction

import pytest
from fastapi.routing import APIRoute

from edgefleet_server.access.grants.grant_scope import Touch
from edgefleet_server.access.model import INCLUDES, Role
from edgefleet_server.access.rules import API_PREFIX, OPEN_PATHS, OWN_TOKEN_PATH, POLICY, role_of, touch_of
from edgefleet_server.composition.api_app import api_routers
from edgefleet_server.web.guarded_route import GuardedRoute
from tests.support.servers import ApiClient, ApiHouse

METHODS = ("get", "put", "post", "patch", "delete", "head")


def routes(house: ApiHouse) -> Iterator[tuple[str, str]]:
    """Yield method and path template of every route of the API that takes operator tokens."""
    for path, item in house.app.openapi()["paths"].items():
        if path.startswith(API_PREFIX) and path.removeprefix(API_PREFIX) not in OPEN_PATHS:
            for method in METHODS:
                if method in item:
                    yield method.upper(), path


def test_every_route_is_in_the_table_and_every_row_is_a_route(house: ApiHouse) -> None:
    assert {(method, path.removeprefix(API_PREFIX)) for method, path in routes(house)} == set(POLICY)


def test_every_route_declares_the_role_that_the_table_gives_it(house: ApiHouse) -> None:
    declared: dict[tuple[str, str], set[Role]] = {}
    for router in api_routers(house.parts):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            needed = [dependency.call for dependency in route.dependant.dependencies]
            roles = {call.required_role for call in needed if call is not None and hasattr(call, "required_role")}
            declared |= {(method, route.path): roles for method in route.methods or ()}
    assert declared == {row: {role_of(*row)} for row in POLICY}


def test_no_dependency_of_a_route_is_handed_to_another_thread(house: ApiHouse) -> None:
    plain: set[str] = set()
    for router in api_routers(house.parts):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            calls = [dependency.call for dependency in route.dependant.dependencies]
            plain |= {call.__qualname__ for call in calls if call is not None and not iscoroutinefunction(call)}
    assert plain == set(), "each costs a turn of the threads: ADR 0170"


def test_a_route_whose_body_says_what_it_touches_gets_its_caller_only_by_saying_so(house: ApiHouse) -> None:
    stated: set[tuple[str, str]] = set()
    for router in api_routers(house.parts):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if any(getattr(one.call, "is_stated", False) for one in route.dependant.dependencies):
                stated |= {(method, route.path) for method in route.methods or ()}
    assert stated == {row for row in POLICY if touch_of(*row) is Touch.STATED}


def test_an_address_names_what_its_row_says_that_it_touches() -> None:
    parts = {Touch.DEVICE: "{device_id}", Touch.ROLLOUT: "{rollout_id}"}
    for method, path in POLICY:
        touch = touch_of(method, path)
        if touch in parts:
            assert parts[touch] in path
        if touch in (Touch.MODEL, Touch.MODEL_EVERYWHERE):
            assert path.startswith(("/models/{name}", "/releases/{ref}"))
        if touch is not None:
            assert role_of(method, path) in (Role.OPERATOR, Role.PUBLISHER), "what else has a scope?"


@pytest.mark.parametrize("role", list(Role))
def test_each_role_gets_exactly_what_the_table_gives_it(house: ApiHouse, role: Role) -> None:
    client = house.client(role)
    for method, path in routes(house):
        address = re.sub(r"\{[^}]+\}", "zzz", path)
        answer = client.request(method, address, params={"max_s": 0} if path.endswith("/stream") else None)
        needed = role_of(method, path)
        assert needed is not None
        may = needed in INCLUDES[role]
        assert (answer.status_code == 403) is not may, (method, path, role, answer.status_code)
        assert answer.status_code < 500, (method, path, answer.text)
        if not may and method != "HEAD":
            assert answer.json()["code"] == "access.forbidden"
            assert answer.json()["next"]


def test_json_is_parsed_after_the_caller_was_let_in(house: ApiHouse) -> None:
    broken = {"content": b"{", "headers": {"content-type": "application/json"}}
    for router in api_routers(house.parts):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            assert route.body_field is None or isinstance(route, GuardedRoute), route.path
    assert house.client().post("/api/v1/releases", **broken).status_code == 401
    assert house.client().post("/api/v1/hooks/alertmanager/efh_x", **broken).status_code == 401
    assert house.client(Role.VIEWER).post("/api/v1/releases", **broken).status_code == 403
    assert house.client(Role.PUBLISHER).post("/api/v1/releases", **broken).status_code == 422


def test_without_a_token_no_route_answers(house: ApiHouse) -> None:
    client = house.client()
    for method, path in routes(house):
        answer = client.request(method, re.sub(r"\{[^}]+\}", "zzz", path))
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_route_with_its_own_token_takes_no_operator_token(house: ApiHouse) -> None:
    path = (API_PREFIX + OWN_TOKEN_PATH).replace("{token}", "zzz")
    for client in (house.client(), house.client(Role.ADMIN)):
        answer = client.post(path, json={})
        assert (answer.status_code, answer.json()["code"]) == (401, "alert.unauthorized")


def test_a_route_that_is_not_in_the_table_is_refused_to_admins_too(house: ApiHouse) -> None:
    from fastapi import APIRouter, Depends

    from edgefleet_server.access.dependency import authorize

    router = APIRouter()

    @router.get("/forgotten")
    def forgotten() -> str:
        return "leak"

    app = house.own_app()
    app.include_router(router, prefix=API_PREFIX, dependencies=[Depends(authorize)])
    answer = ApiClient(app, house.token(Role.ADMIN)).get("/api/v1/forgotten")
    assert answer.status_code == 403
    assert "policy table" in answer.json()["next"]


def test_operation_ids_are_noun_verb_and_unique(house: ApiHouse) -> None:
    found = [operation["operationId"] for item in house.app.openapi()["paths"].values() for operation in item.values()]
    assert len(found) == len(set(found))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in found)
