"""Routes that FastAPI prepares when they are needed first: a server has some hundred, and a process uses few of them.

Preparing one (its parameters, its body, what it answers) takes 5 ms of processor time; to know whether a request is for it takes its
address and its methods. So a route keeps what it was declared with, and becomes whole with its first request, or as soon as
something asks for more of it, such as the description of the API. A wrong declaration shows then; the test of `openapi.json` asks all.
"""

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from fastapi.routing import APIRoute
from starlette.routing import compile_path


class DeferredRoute(APIRoute):
    """A route that is prepared when it is needed first, by one thread at a time."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Keep a declaration. options: those of `APIRoute`."""
        self._preparing = RLock()
        self._options: dict[str, Any] | None = options
        self._is_entered = False
        self.endpoint = endpoint
        self.methods = {method.upper() for method in options.get("methods") or ("GET",)}
        self.operation_id = options.get("operation_id")
        self.include_in_schema = options.get("include_in_schema", True)
        self._place(path)

    def put_under(self, prefix: str, dependencies: Sequence[Depends]) -> None:
        """Move a route that was not needed yet below an address, with dependencies that come before its own."""
        assert self._options is not None, f"{self.path} was prepared already"
        self._options["dependencies"] = [*dependencies, *(self._options.get("dependencies") or ())]
        self._place(prefix + self.path)

    def _place(self, path: str) -> None:
        self.path = path
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)

    def __getattr__(self, name: str) -> Any:
        """Prepare the route when something is asked of it that a declaration has not. Raises AttributeError."""
        if not name.startswith("_preparing"):
            with self._preparing:
                if self._options is not None and not self._is_entered:
                    self._prepare(self._options)
                if name in vars(self):
                    return vars(self)[name]
        raise AttributeError(f"a route has no {name!r}")

    def _prepare(self, options: dict[str, Any]) -> None:
        self._is_entered = True  # what is asked of it meanwhile, in this thread, is not there yet
        try:
            super().__init__(self.path, self.endpoint, **options)
            self._options = None
        finally:
            self._is_entered = False


def add_routes(app: FastAPI, router: APIRouter, prefix: str = "", dependencies: Sequence[Depends] = ()) -> None:
    """Add the routes of a router to an app as they are, below an address and behind dependencies.

    `include_router` would prepare each route a second time, with the first request for any.
    """
    for route in router.routes:
        assert isinstance(route, DeferredRoute), route
        route.put_under(prefix, dependencies)
        app.router.routes.append(route)
