"""Which methods an address of the API takes: 405 with all of them in `Allow`, and HEAD wherever there is GET.

The framework looks at one route at a time: it would say `Allow: GET` where PATCH is another route, and take `DELETE /rollouts/x:pause`
for a rollout that is called so. Here the most specific address that fits decides: `…:verb` before `{id}`, a word before a name.
The addresses are those of the policy table, which has every route that anybody may call.
"""

import re
from collections.abc import Iterable
from typing import Final

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgefleet_server.access.rules import API_PREFIX, OPEN_PATHS, POLICY
from edgefleet_server.web import problems

_OPEN_ENDED: Final = frozenset({"/events/stream"})
"""No HEAD: the answer has no end."""
_NAME: Final = re.compile(r"\{[^}]+\}")


class AddressBook:
    """The addresses of an API, by what they look like. Pure."""

    def __init__(self, operations: Iterable[tuple[str, str]]) -> None:
        """Read (method, address template) of every operation."""
        methods: dict[str, set[str]] = {}
        for method, path in operations:
            methods.setdefault(path, set()).add(method)
        self._by_depth: dict[int, list[tuple[re.Pattern[str], frozenset[str], bool]]] = {}
        for path in sorted(methods, key=_specific, reverse=True):
            found, has_head = methods[path], "HEAD" in methods[path]
            if "GET" in found and path not in _OPEN_ENDED:
                found.add("HEAD")
            entry = (_pattern(path), frozenset(found), has_head)
            self._by_depth.setdefault(path.count("/"), []).append(entry)

    def methods(self, path: str) -> frozenset[str] | None:
        """Return the methods of an address, None when there is no such address."""
        found = self._find(path)
        return None if found is None else found[0]

    def has_head(self, path: str) -> bool:
        """Return whether an address has an operation of its own for HEAD."""
        found = self._find(path)
        return found is not None and found[1]

    def _find(self, path: str) -> tuple[frozenset[str], bool] | None:
        for pattern, methods, has_head in self._by_depth.get(path.count("/"), ()):
            if pattern.fullmatch(path):
                return methods, has_head
        return None


def _specific(path: str) -> tuple[int, int]:
    """Return how specific an address is: verbs first, then those with fewer names in them."""
    return int(":" in path.rpartition("/")[2].rpartition("}")[2]), -len(_NAME.findall(path))


def _pattern(path: str) -> re.Pattern[str]:
    """Return what the addresses of a template look like."""
    words = _NAME.split(path)
    return re.compile("[^/]+".join(re.escape(word) for word in words))


ADDRESSES: Final = AddressBook([*POLICY, *(("POST", path) for path in OPEN_PATHS)])
"""Of this API, below its prefix."""


class AllowedMethods:
    """Refuses methods that an address does not take, and answers HEAD. Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or not scope["path"].startswith(API_PREFIX):
            await self._app(scope, receive, send)
            return
        path, method = scope["path"].removeprefix(API_PREFIX), scope["method"]
        methods = ADDRESSES.methods(path)
        if methods is None or (method in methods and (method != "HEAD" or ADDRESSES.has_head(path))):
            await self._app(scope, receive, send)
        elif method in methods:
            await self._head(scope, receive, send)
        else:
            answer = problems.method_not_allowed(Request(scope), methods)
            await answer(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the head of what GET would answer."""

        async def send_head(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "body": b""} if is_body else message)

        inner = {**scope, "method": "GET"}
        await self._app(inner, receive, send_head)
        if "route" in inner:
            scope["route"] = inner["route"]  # what counts requests asks for it
