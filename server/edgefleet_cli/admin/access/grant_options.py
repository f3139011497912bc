"""Options that limit a grant, and how grants are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_cli.core import completion

if TYPE_CHECKING:
    from edgefleet_cli.core.api.access import Grant

MODELS = Annotated[
    list[str] | None,
    typer.Option("--model", help="Only for this model; repeatable.", autocompletion=completion.models),
]
GROUPS = Annotated[
    list[str] | None,
    typer.Option("--group", help="Only on devices of this group; repeatable.", autocompletion=completion.groups),
]
SITES = Annotated[
    list[str] | None, typer.Option("--site", help="Only on devices whose label site has this value; repeatable.")
]


def grants_text(grants: Iterable[Grant], roles: Iterable[str] = ()) -> str:
    """Return grants in words, such as `viewer, operator (model a, group x)`. roles: over the whole fleet, named first."""
    return ", ".join([*roles, *map(_text, grants)]) or "none"


def _text(grant: Grant) -> str:
    named = (("model", grant.models), ("group", grant.groups), ("site", grant.sites))
    scope = ", ".join(f"{kind} {' or '.join(names)}" for kind, names in named if names)
    return f"{grant.role} ({scope})" if scope else grant.role
