"""What people see of the named strategies: the spec that each stands for. The names of the fields are public: never renamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_server.rollout.errors import StrategyUnknownError
from edgefleet_server.rollout.spec.parser import dump_document, parse_spec
from edgefleet_server.rollout.spec.strategies import STRATEGIES, Strategy

PLACEHOLDER: Final = {"release": "model@version", "selector": ""}
"""What the printed spec has where its author writes which release goes where."""


@dataclass(frozen=True)
class StrategyView:
    """A named strategy. spec: the whole document that it stands for, to be filled in with release and selector."""

    name: str
    about: str
    spec: Mapping[str, Any]


def strategies() -> list[StrategyView]:
    """Return all of them."""
    return [_view(one) for one in STRATEGIES.values()]


def strategy(name: str) -> StrategyView:
    """Return one. Raises StrategyUnknownError."""
    found = STRATEGIES.get(name)
    if found is None:
        raise StrategyUnknownError(
            f"there is no strategy {name[:40]!r}", next_step=f"choose one of {', '.join(STRATEGIES)}"
        )
    return _view(found)


def _view(one: Strategy) -> StrategyView:
    spec = parse_spec({**PLACEHOLDER, "strategy": one.name})
    return StrategyView(one.name, one.about, dump_document(spec))
