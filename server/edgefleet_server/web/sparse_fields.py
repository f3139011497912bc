"""`fields=a,b` of lists: every item with only these fields. One place for all lists, so that no route has to know.

A route that answers `ListOf[…]` gets the parameter by its class. Its answer is made as always and cut before it is sent: that spares
the network and the reader, not the server. The OpenAPI document describes whole items; a reader who asks for fields gets those.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args

import msgspec
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.web.guarded_route import GuardedRoute
from edgefleet_server.web.pagination import ListOf


class BadFieldsError(EdgefleetError):
    """The items of the list have no such field."""

    code = "request.bad_fields"


class ListRoute(GuardedRoute):
    """A route whose answer can be cut to some fields when it is a list."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add `fields` to what a list takes."""
        answer = endpoint.__annotations__.get("return")
        if isinstance(answer, type) and issubclass(answer, ListOf):
            options["dependencies"] = [*(options.get("dependencies") or ()), _fields_query(_names_of(answer))]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request: as ever, then cut."""
        handle = super().get_route_handler()

        async def cut(request: Request) -> Response:
            response = await handle(request)
            wanted = getattr(request.state, "fields", ())
            if wanted and response.status_code < 300:
                response.body = _cut(bytes(response.body), wanted)
                response.headers["content-length"] = str(len(response.body))
            return response

        return cut


def _names_of(answer: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of the items of a list, () where they have no fixed ones."""
    item = get_args(answer.model_fields["items"].annotation)[0]
    if is_dataclass(item):
        return tuple(one.name for one in fields_of(item))
    return tuple(item.model_fields) if isinstance(item, type) and issubclass(item, BaseModel) else ()


def _fields_query(names: Sequence[str]) -> Any:
    """Return the dependency that reads `fields` of a list whose items have these names; () = any, looked at with the items."""
    description = "Only these fields of each item, separated by commas" + (
        f"; of: {', '.join(names)}." if names else "."
    )

    async def read_fields(
        request: Request, fields: Annotated[str, Query(max_length=1024, description=description)] = ""
    ) -> None:
        wanted = tuple(dict.fromkeys(filter(None, (one.strip() for one in fields.split(",")))))
        if names:
            _check(wanted, names)
        request.state.fields = wanted

    return Depends(read_fields)


def _check(wanted: Sequence[str], names: Sequence[str]) -> None:
    unknown = [one for one in wanted if one not in names]
    if unknown:
        raise BadFieldsError(
            f"the items of this list have no field {unknown[0][:80]!r}",
            next_step=f"use some of these for `fields`: {', '.join(names)}",
        )


def _cut(body: bytes, wanted: Sequence[str]) -> bytes:
    document = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    items = msgspec.json.decode(
        document["items"], type=list[dict[str, msgspec.Raw]]
    )  # a value that is kept is not looked into
    if items:
        _check(wanted, list(dict.fromkeys(name for item in items for name in item)))
    cut = [{name: item[name] for name in wanted if name in item} for item in items]
    return msgspec.json.encode(document | {"items": cut})
