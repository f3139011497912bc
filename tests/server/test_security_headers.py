"""No answer of a listener leaves without its security headers: every route of both apps, streams, and refusals from every layer."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from edgefleet_server.access.model import Role
from edgefleet_server.composition.device_app import create_device_app
from edgefleet_server.web.body_limit import API_BODY_BYTES
from edgefleet_server.web.security_headers import SECURITY_HEADERS
from tests.support.servers import ApiHouse


class _HeadSeenError(Exception):
    pass


Headers = Mapping[str, list[str]]


@dataclass(frozen=True)
class Apps:
    """The apps of both listeners, and the headers of an admin."""

    api: FastAPI
    device: FastAPI
    admin: Mapping[str, str]
    runner: asyncio.Runner

    def ask(self, app: FastAPI, *asked: Any, **more: Any) -> tuple[int, Headers]:
        """Return status and headers of an answer."""
        return self.runner.run(answered(app, *asked, **more))


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    """Both apps on one house, each with a route that has a bug."""
    house = ApiHouse(tmp_path_factory.mktemp("guarded") / "server")
    device = create_device_app(house.parts.fleet, house.parts.signing, house.parts.registry)
    with asyncio.Runner() as runner:
        made = Apps(house.own_app(), device, {"authorization": f"Bearer {house.token(Role.ADMIN)}"}, runner)
        for app in (made.api, made.device):

            @app.get("/broken")
            def broken() -> None:
                raise KeyError("secret detail")

        yield made
    house.close()


async def answered(
    app: FastAPI, method: str, path: str, headers: Mapping[str, str] = MappingProxyType({}), body: bytes = b""
) -> tuple[int, Headers]:
    """Return status and headers of an answer, and read no more of it: some never end."""
    started: list[Any] = []
    bodies = [body]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Event().wait()  # the client stays connected
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: Any) -> None:
        started.append(message)
        raise _HeadSeenError

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path, "raw_path": path.encode(),
        "root_path": "", "query_string": b"", "headers": [(b"host", b"testserver"), *given], "server": ("testserver", 80),
        "client": ("127.0.0.1", 1), "state": {},
    }  # fmt: skip
    with suppress(_HeadSeenError, ExceptionGroup):
        await app(scope, receive, send)
    found: dict[str, list[str]] = {}
    for name, value in started[0]["headers"]:
        found.setdefault(name.decode(), []).append(value.decode())
    return started[0]["status"], found


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and an address of every route of an app."""
    for context in iter_route_contexts(app.routes):
        for method in sorted(context.methods or ()):
            yield method, (context.path_format or "").replace("{", "").replace("}", "")


def is_guarded(headers: Headers) -> bool:
    """Return whether headers are there, once each, with a policy that lets nobody frame the answer and no script run that is not ours."""
    policies = headers.get("content-security-policy", [])
    return (
        len(policies) == 1
        and policies[0].startswith(("default-src 'none'; ", "default-src 'self'; ", "sandbox; default-src 'none'; "))
        and "frame-ancestors 'none'" in policies[0]
        and "script-src" not in policies[0]
        and all(headers.get(name) == [SECURITY_HEADERS[name]] for name in ("x-content-type-options", "referrer-policy"))
    )


def test_every_route_of_both_listeners_answers_with_the_headers(apps: Apps) -> None:
    walked, bare = 0, []
    for app in (apps.api, apps.device):
        for method, path in routes(app):
            for told in ({}, apps.admin) if method == "GET" else ({},):
                walked += 1
                status, headers = apps.ask(app, method, path, told)
                if not is_guarded(headers):
                    bare.append((method, path, status))
    assert bare == []
    assert walked > 250


def test_refusals_of_every_layer_and_bugs_have_the_headers(apps: Apps) -> None:
    large, paths = {"content-length": str(API_BODY_BYTES + 1)}, {"api": "/api/v1/models", "device": "/device/v1/enroll"}
    seen = {}
    for listener, app in (("api", apps.api), ("device", apps.device)):
        for what, asked in {
            "no such route": apps.ask(app, "GET", "/nothing"),
            "no such method": apps.ask(app, "PATCH", paths[listener]),
            "too large": apps.ask(app, "POST", paths[listener], large),
            "unreadable": apps.ask(app, "POST", paths["device"], body=b"{"),
            "a bug": apps.ask(app, "GET", "/broken"),
        }.items():
            seen[listener, what], headers = asked
            assert is_guarded(headers), (listener, what, headers)
    assert list(seen.values()) == [404, 405, 413, 404, 500, 404, 405, 413, 422, 500]


def test_what_a_page_needs_stands_and_data_may_do_nothing(apps: Apps) -> None:
    policy = "content-security-policy"
    nothing = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    for path in ("/api/v1/events/stream", "/api/v1/models", "/metrics", "/openapi.json", "/static/components.css"):
        status, headers = apps.ask(apps.api, "GET", path, apps.admin)
        assert (status, headers[policy]) == (200, [nothing]), path
    ours = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    assert apps.ask(apps.api, "GET", "/login")[1][policy] == [ours]
    assert apps.ask(apps.api, "GET", "/docs")[1][policy] == [f"{ours}; img-src 'self' data:"]
