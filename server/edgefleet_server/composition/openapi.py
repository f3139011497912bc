"""The API's description of itself: what FastAPI knows of the routes, and what holds for all of them alike.

FastAPI writes parameters and bodies. Here is added, from one place and for every operation under `/api/v1`: that refusals are problem
documents (but of HEAD, which has no body) and which statuses they have, the operator token, the role of the policy table,
`Idempotency-Key`, and headers of answers.

Making the document prepares all routes and takes more than a second of processor time. So servers read it from the file that documentation
and clients have: a test holds the file equal to what the routes say.
"""

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any, Final

from fastapi.routing import APIRoute

from edgefleet_server.access.idempotency.middleware import IDEMPOTENCY_KEY
from edgefleet_server.access.rules import API_PREFIX, OPEN_PATHS, role_of
from edgefleet_server.web.problems import PROBLEM_TYPE
from edgefleet_server.web.security_headers import GuardedApp

Json = dict[str, Any]

FILE: Final = "reference/openapi.json"

METHODS: Final = ("get", "head", "put", "post", "patch", "delete")

SCHEME: Final = "operatorToken"

_PROBLEM_REF: Final = {"$ref": "#/components/schemas/Problem"}

_EVERYWHERE: Final = (422, 429, 500, 503)

_REFUSALS: Final = (400, 401, 403, 404, 409, 412, 413, 416, 501, *_EVERYWHERE)

_HAS_NO_BODY: Final = frozenset({204, 304})

PROBLEM: Final[Json] = {
    "type": "object",
    "title": "Problem",
    "description": "Why a request was refused or failed (RFC 9457). `code` is stable, `next` says what to do.",
    "required": ["type", "title", "status", "detail", "code", "request_id", "next", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "next": {"type": "string"},
        "why": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
    },
}

_KEY_PARAMETER: Final[Json] = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "description": "The same key with the same request within 24 hours is answered with the first answer, and done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}

_HEADERS: Final[Json] = {
    "X-Request-Id": {"description": "What logs and the audit trail call this request.", "schema": {"type": "string"}},
}

_LIMIT_HEADERS: Final[Json] = {
    "RateLimit-Limit": {"description": "Requests a minute that this token has.", "schema": {"type": "integer"}},
    "RateLimit-Remaining": {"description": "Requests that are left at once.", "schema": {"type": "integer"}},
    "RateLimit-Reset": {"description": "Seconds until all are there again.", "schema": {"type": "integer"}},
}

_RETRY_AFTER: Final[Json] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


class ApiApp(GuardedApp):
    """An app whose description is completed by `describe`."""

    _described: Json | None = None
    _read: Json | None = None
    _describing: Final = Lock()

    def openapi(self) -> Json:
        """Return the OpenAPI document of the routes that there are now. Making it takes a second: who comes meanwhile waits for it."""
        with self._describing:
            document = super().openapi()
            if document is not self._described:
                describe(document)
                self._described = document
        return document

    def described(self) -> Json:
        """Return the same document from the file of this version; made, where there is none with the operations of this app."""
        if self._read is None:
            stored = stored_document()
            if stored is None or stored["info"]["version"] != self.version or not self._has_all(stored):
                stored = self.openapi()
            self._read = stored
        return self._read

    def _has_all(self, document: Json) -> bool:
        own = {route.operation_id for route in self.routes if isinstance(route, APIRoute) and route.include_in_schema}
        return own == {one["operationId"] for _, _, one in operations(document)}


def stored_document() -> Json | None:
    """Return the document of the file: in a wheel it lies in the package, in a clone in `docs/`. None where it is in neither."""
    here = Path(__file__)
    for file in (here.parents[1] / "dashboard" / FILE, here.parents[3] / "docs" / FILE):
        if file.is_file():
            document: Json = json.loads(file.read_bytes())
            return document
    return None


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Json]]:
    """Yield (method in lower case, path, operation) of every operation of a document."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def describe(document: Json) -> None:
    """Add to a document of FastAPI what holds for all operations."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = PROBLEM
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    components["headers"] = {**_HEADERS, **_LIMIT_HEADERS, **_RETRY_AFTER}
    components["responses"] = {_name_of(status): _problem_response(status) for status in _REFUSALS}
    components["securitySchemes"] = {
        SCHEME: {"type": "http", "scheme": "bearer", "description": "An operator token: `Authorization: Bearer edg_…`."}
    }
    for method, path, operation in operations(document):
        if path.startswith(API_PREFIX):
            _describe_one(method, path, operation)


def _describe_one(method: str, path: str, operation: Json) -> None:
    has_own_token = path.removeprefix(API_PREFIX) in OPEN_PATHS
    if not has_own_token:
        operation["security"] = [{SCHEME: []}]
        role = role_of(method.upper(), path)
        operation["x-role"] = None if role is None else role.value
        if method == "post":
            operation.setdefault("parameters", []).append(_KEY_PARAMETER)
    responses: Json = operation["responses"]
    responses.pop("422", None)
    declared = {int(status) for status in responses if int(status) >= 400}
    for status in declared | _refusals(method, path, operation, has_own_token=has_own_token):
        responses[str(status)] = (
            {"description": HTTPStatus(status).phrase}  # a client that read a problem from it would fail
            if method == "head"
            else {"$ref": f"#/components/responses/{_name_of(status)}"}
        )
    for code, response in responses.items():
        if "$ref" not in response:
            headers = _HEADERS if has_own_token else {**_HEADERS, **_LIMIT_HEADERS}
            response["headers"] = {**_references(headers), **response.get("headers", {})}
        if int(code) in _HAS_NO_BODY:
            response.pop("content", None)
    operation["responses"] = dict(sorted(responses.items()))


def _refusals(method: str, path: str, operation: Json, *, has_own_token: bool) -> set[int]:
    """Return the statuses with which an operation may be refused."""
    names = {one["name"].lower() for one in operation.get("parameters", ())}
    found = {401, *_EVERYWHERE}
    if not has_own_token:
        found.add(403)
    if "{" in path or "requestBody" in operation:  # what a body names may be unknown too
        found.add(404)
    if method not in ("get", "head"):
        found.add(409)
    if "requestBody" in operation:
        found |= {400, 413}
    if "if-match" in names:
        found.add(412)
    return found


def _problem_response(status: int) -> Json:
    headers = _HEADERS | _LIMIT_HEADERS | (_RETRY_AFTER if status in (429, 503) else {})
    return {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_TYPE: {"schema": _PROBLEM_REF}},
        "headers": _references(headers),
    }


def _references(headers: Mapping[str, Any]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _name_of(status: int) -> str:
    """Return what a refusal is called among the responses: NotFound."""
    return HTTPStatus(status).name.title().replace("_", "")
