"""Routes are prepared when they are needed first: the start of a server prepares none, and what they answer is what FastAPI's own would."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel

from edgefleet_server.access.model import Role
from edgefleet_server.web.deferred_route import DeferredRoute, add_routes
from tests.support.servers import ApiClient, ApiHouse


class Thing(BaseModel):
    """What the routes of these tests take and answer."""

    name: str
    count: int = 1


def asked(request: Request) -> str:
    """Return a word of the request; a dependency."""
    return request.headers.get("word", "none")


def noted(request: Request) -> None:
    """Note that it ran; a dependency of all routes."""
    request.state.noted = True


def things(route_class: type[APIRoute]) -> APIRouter:
    """Return a router with a list, an item and a way to make one."""
    router = APIRouter(tags=["things"], route_class=route_class)

    @router.get("/things/{name}", operation_id="get_thing")
    def get_thing(
        name: str, word: Annotated[str, Depends(asked)], request: Request, n: Annotated[int, Query(le=9)] = 1
    ) -> Thing:
        """Return one."""
        return Thing(name=f"{name} {word} {request.state.noted}", count=n)

    @router.post("/things", operation_id="create_thing", status_code=201)
    def create_thing(thing: Thing) -> Thing:
        """Make one."""
        return thing

    return router


def pair() -> tuple[FastAPI, FastAPI]:
    """Return an app with deferred routes, and one that is made with FastAPI's own means."""
    ours, theirs = FastAPI(), FastAPI()
    add_routes(ours, things(DeferredRoute), "/api", [Depends(noted)])
    theirs.include_router(things(APIRoute), prefix="/api", dependencies=[Depends(noted)])
    return ours, theirs


def prepared(app: FastAPI) -> list[str]:
    """Return the addresses of the routes that are prepared."""
    return [route.path for route in app.routes if isinstance(route, DeferredRoute) and "dependant" in vars(route)]


def test_a_new_server_has_prepared_no_route_and_a_request_prepares_its_own(house: ApiHouse) -> None:
    app = house.own_app()
    assert len([route for route in app.routes if isinstance(route, DeferredRoute)]) > 250
    assert prepared(app) == []
    client = ApiClient(app, house.token(Role.VIEWER))
    assert client.get("/api/v1/models").status_code == 200
    assert client.get("/api/v1/nothing").status_code == 404
    assert prepared(app) == ["/api/v1/models"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/things/a?n=3", None),
        ("GET", "/api/things/a?n=10", None),
        ("GET", "/api/things/a?n=x", None),
        ("POST", "/api/things", {"name": "b"}),
        ("POST", "/api/things", {"count": "many"}),
        ("DELETE", "/api/things", None),
        ("GET", "/things/a", None),
        ("GET", "/api/things/a/", None),
    ],
)
def test_answers_are_those_of_routes_that_are_prepared_at_once(method: str, path: str, body: object) -> None:
    ours, theirs = (TestClient(app).request(method, path, json=body, headers={"word": "w"}) for app in pair())
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


def test_the_description_is_the_same_and_prepares_all() -> None:
    ours, theirs = pair()
    assert ours.openapi() == theirs.openapi()
    assert prepared(ours) == ["/api/things/{name}", "/api/things"]


def test_requests_at_once_wait_for_the_one_that_prepares() -> None:
    ours, _ = pair()
    (route,) = [
        route for route in ours.routes if isinstance(route, DeferredRoute) and route.path == "/api/things/{name}"
    ]
    start = Barrier(8)

    def ask(_number: int) -> object:
        start.wait()
        return route.app

    with ThreadPoolExecutor(8) as pool:
        assert len({id(app) for app in pool.map(ask, range(8))}) == 1


def test_an_attribute_that_no_route_has_is_missing_before_and_after() -> None:
    ours, _ = pair()
    (route, _post) = [route for route in ours.routes if isinstance(route, DeferredRoute)]
    for _ in range(2):
        with pytest.raises(AttributeError, match="no_such"):
            _ = route.no_such
    with pytest.raises(AssertionError, match="prepared already"):
        route.put_under("/more", ())


def test_a_wrong_declaration_shows_with_what_needs_it_first_each_time() -> None:
    router = APIRouter(route_class=DeferredRoute)

    @router.get("/wrong")
    def wrong() -> Barrier:
        return Barrier(1)

    app = FastAPI()
    add_routes(app, router)
    for _ in range(2):
        with pytest.raises(Exception, match="valid Pydantic field type"):
            app.openapi()
