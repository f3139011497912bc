"""Which methods an address of the API takes: 405 with all of them in `Allow`, and HEAD wherever there is GET.

The framework looks at one route at a time: it would say `Allow: GET` where PATCH is another route, and take `DELETE /rollouts/x:pause`
for a rollout that is called so. Here the most specific address that fits decides: `…:verb` before `{id}`, a word before a name.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_server import http_errors
from edgefleet_server.access.rules import API_PREFIX
from edgefleet_server.openapi import operations

_OPEN_ENDED: Final = frozenset({f"{API_PREFIX}/events/stream"})
"""No HEAD: the answer has no end."""
_NAME: Final = re.compile(r"\{[^}]+\}")


class AddressBook:
    """The addresses of an OpenAPI document, by what they look like. Pure."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read the document."""
        methods: dict[str, set[str]] = {}
        for method, path, _ in operations(document):
            methods.setdefault(path, set()).add(method.upper())
        self._by_depth: dict[int, list[tuple[re.Pattern[str], frozenset[str]]]] = {}
        for path in sorted(methods, key=_specific, reverse=True):
            found = methods[path]
            if "GET" in found and path not in _OPEN_ENDED:
                found.add("HEAD")
            entry = (_pattern(path), frozenset(found))
            self._by_depth.setdefault(path.count("/"), []).append(entry)

    def methods(self, path: str) -> frozenset[str] | None:
        """Return the methods of an address, None when there is no such address."""
        for pattern, methods in self._by_depth.get(path.count("/"), ()):
            if pattern.fullmatch(path):
                return methods
        return None


class Methods:
    """Refuses methods that an address does not take, and answers HEAD. Plain ASGI; `app` tells the addresses."""

    def __init__(self, app: ASGIApp, api: FastAPI) -> None:
        """Wrap `app`."""
        self._app = app
        self._api = api
        self._document: object = None
        self._book = AddressBook({"paths": {}})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or not scope["path"].startswith(API_PREFIX):
            await self._app(scope, receive, send)
            return
        methods = self._addresses().methods(scope["path"])
        method = scope["method"]
        if methods is None or (method in methods and method != "HEAD"):
            await self._app(scope, receive, send)
        elif method not in methods:
            request = Request(scope)
            answer = http_errors.method_not_allowed(request, methods)
            await answer(scope, receive, send)
        else:
            await self._head(scope, receive, send)

    def _addresses(self) -> AddressBook:
        document = self._api.openapi()
        if document is not self._document:
            self._book, self._document = AddressBook(document), document
        return self._book

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the head of what GET would answer. A route of its own for HEAD is asked as it is."""

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        has_own = self._api_has_head(scope["path"])
        inner = scope if has_own else {**scope, "method": "GET"}
        await self._app(inner, receive, send_head)
        if "route" in inner:
            scope["route"] = inner["route"]  # whoever counts requests asks for it

    def _api_has_head(self, path: str) -> bool:
        return path.startswith(f"{API_PREFIX}/blobs/")


def _specific(path: str) -> tuple[int, int]:
    """Return how specific an address is: verbs first, then those with fewer names in them."""
    return int(":" in path.rpartition("/")[2].rpartition("}")[2]), -len(_NAME.findall(path))


def _pattern(path: str) -> re.Pattern[str]:
    """Return what the addresses of a template look like."""
    words = _NAME.split(path)
    return re.compile("[^/]+".join(re.escape(word) for word in words))
