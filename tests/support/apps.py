"""The apps of a server, made once a process and shared by all tests: making one, and its first answers, take 0.4 s of processor time.

A shared app is the real one of `create_app` or `create_device_app`. It was made with stand-ins for the parts, which find those of the
caller at each request: a context variable holds them, as every task and thread that serves a request has a copy of its context.
What the app reads of the settings while it is made is fixed in it; for other values another app is made.

An app that is changed, or that keeps something of its own while it serves (streams), is made for the test: `create_app`.

Forked servers use apps that were made before the fork (`make_ahead`), each with its only parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.container import Parts
from edgefleet_server.composition.device_app import create_device_app

_parts: ContextVar[Any] = ContextVar("parts")
_only: list[Any] = []
"""The parts of a process that has no others, a forked server: for its threads, which are in no request."""
Create = Callable[[Parts], FastAPI]


class AppOf:
    """An ASGI app: the shared one, with these parts."""

    def __init__(self, create: Create, parts: Any) -> None:
        self._parts = parts
        self._app = _shared(create, parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request from these parts."""
        before = _parts.set(self._parts)
        try:
            await self._app(scope, receive, send)
        finally:
            _parts.reset(before)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return self._app.openapi()


def shared_app(parts: Parts) -> AppOf:
    """Return the API app with these parts."""
    return AppOf(create_app, parts)


def shared_device_app(parts: Any) -> AppOf:
    """Return the app of the device listener with these parts, or with the three that it uses."""
    return AppOf(_device_app, parts)


def make_ahead(usual: Any) -> None:
    """Make the apps of servers with these settings, and the description of the API. usual: has `settings`."""
    _shared(create_app, usual).openapi()
    _shared(_device_app, usual)


def only_app(parts: Parts) -> FastAPI:
    """Return the API app of a process that has no other parts: the one that was made ahead, unless its settings make another."""
    _only[:] = [parts]
    return _known(create_app, parts) or create_app(parts)


def only_device_app(fleet: Any, signing: Any, registry: Any) -> FastAPI:
    """Return the app of the device listener of such a process, whose API app was asked for first."""
    (parts,) = _only
    assert (parts.fleet, parts.signing, parts.registry) == (fleet, signing, registry)
    return _known(_device_app, parts) or create_device_app(fleet, signing, registry)


def _device_app(parts: Parts) -> FastAPI:
    return create_device_app(parts.fleet, parts.signing, parts.registry)


@dataclass(frozen=True)
class _Made:
    """An app, and what it read of the settings while it was made."""

    app: FastAPI
    settings: Mapping[str, Any]


_made: dict[Create, list[_Made]] = {}


def _shared(create: Create, parts: Any) -> FastAPI:
    if (known := _known(create, parts)) is not None:
        return known
    stand_in = _Parts(parts)
    made = _Made(create(cast("Parts", stand_in)), stand_in.finish())
    _made.setdefault(create, []).append(made)
    return made.app


def _known(create: Create, parts: Any) -> FastAPI | None:
    """Return an app that was made with these settings, as far as it read them."""
    for one in _made.get(create, ()):
        if all(getattr(parts.settings, name) == value for name, value in one.settings.items()):
            return one.app
    return None


def _asked() -> Any:
    """Return the parts of the request, or the only ones."""
    return _parts.get(*_only)


class _Parts:
    """Stands for the parts: while an app is made every part is a stand-in too, but for the settings."""

    def __init__(self, first: Any) -> None:
        self._first = first
        self._settings: _Settings | None = None

    def finish(self) -> Mapping[str, Any]:
        """Be the parts of the request from now on; return what was read of the settings until now."""
        settings, self._first, self._settings = self._settings, None, None
        return {} if settings is None else settings.finish()

    def __getattr__(self, name: str) -> Any:
        if self._first is None:
            return getattr(_asked(), name)
        if name != "settings":
            return _Part(self, (name,))
        self._settings = self._settings or _Settings(self._first.settings)
        return self._settings


class _Settings:
    """Settings that note what is read of them while an app is made; afterwards they are those of the request."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._read: dict[str, Any] = {}

    def finish(self) -> Mapping[str, Any]:
        """Be the settings of the request from now on; return what was read until now."""
        self._settings = None
        return self._read

    def __getattr__(self, name: str) -> Any:
        if self._settings is None:
            return getattr(_asked().settings, name)
        self._read[name] = getattr(self._settings, name)
        return self._read[name]


class _Part:
    """Stands for a part, or for what it holds, that an app keeps: found by its path at each use. Raises TypeError when an app that is
    being made calls it or asks whether it is true: that would be kept of one test for all others."""

    def __init__(self, parts: _Parts, path: tuple[str, ...]) -> None:
        self._of, self._path = parts, path

    def _found(self) -> Any:
        if self._of._first is not None:
            raise TypeError(f"an app that is being made uses {'.'.join(self._path)}: tests cannot share it")
        found: Any = _asked()
        for name in self._path:
            found = getattr(found, name)
        return found

    def __getattr__(self, name: str) -> Any:
        if self._of._first is not None:
            return _Part(self._of, (*self._path, name))
        return getattr(self._found(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._found())
