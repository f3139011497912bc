"""What a list of devices is asked for, in its address: a selector, a text, an order. Pure.

One box takes both: a first word that belongs to no requirement (`cam`, `cam env=prod`) is looked for in ids and label values, the
rest is a selector. Addresses name them apart (`text`, `selector`), so that a view can be kept as a bookmark.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.inventory.device_list import Order
from edgefleet_server.fleet.selectors.grammar import Operator, Requirement, Selector, parse_selector

PATH: Final = "/devices"
MAX_IDS: Final = 200
_ORDERS: Final = {one.value: one for one in Order}
_WORD: Final = re.compile(r"\s*([A-Za-z0-9._/+-]+)(?:\s+(?!(?:in|notin)\s*\(|[=!<>,]=?)|\s*$)")


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for. selector and text are as they were written; `order` with a `-` before it is turned around."""

    selector: str = ""
    text: str = ""
    order: Order = Order.HEALTH
    descending: bool = False

    @classmethod
    def of(cls, *, q: str = "", selector: str = "", text: str = "", sort: str = "") -> "Search":
        """Return the search of an address: `q` is what stands in the box, and wins. An unknown order is the usual one: the worst first."""
        if q.strip():
            found = _WORD.match(q)
            text, selector = ("", q.strip()) if found is None else (found[1], q[found.end() :].strip())
        descending, name = sort.startswith("-"), sort.removeprefix("-")
        order = _ORDERS.get(name, Order.HEALTH)
        return cls(selector.strip(), text.strip(), order, descending and name in _ORDERS)

    @property
    def box(self) -> str:
        """What stands in the box."""
        return f"{self.text} {self.selector}".strip()

    @property
    def is_narrow(self) -> bool:
        """Whether anything is looked for at all."""
        return bool(self.selector or self.text)

    @property
    def sort(self) -> str:
        """The order as it stands in an address."""
        return f"{'-' if self.descending else ''}{self.order}"

    def address(self, path: str = PATH, **more: str) -> str:
        """Return the address of this search."""
        fields = {
            "text": self.text,
            "selector": self.selector,
            "sort": "" if self.sort == Order.HEALTH else self.sort,
            **more,
        }
        query = urlencode({name: value for name, value in fields.items() if value})
        return f"{path}?{query}" if query else path

    def sorted_by(self, order: Order) -> "Search":
        """Return the search by an order; turned around when it has that order already."""
        is_same = order is self.order
        return replace(self, order=order, descending=not self.descending if is_same else order is Order.LAST_SEEN)

    def has(self, key: str, value: str | None) -> bool:
        """Say whether the selector asks for exactly this."""
        return _wanted(key, value) in _requirements(self.selector)

    def toggled(self, key: str, value: str | None) -> "Search":
        """Return the search with `key=value` (None: `key`) instead of what it asks of that key; without, when it asks for just this."""
        kept = [one for one in _requirements(self.selector) if one.key != key]
        wanted = [] if self.has(key, value) else [_wanted(key, value)]
        return replace(self, selector=str(Selector((*kept, *wanted))))


def ids_selector(ids: Sequence[str]) -> str:
    """Return the selector of these devices."""
    return f"id in ({','.join(ids)})" if len(ids) != 1 else f"id={ids[0]}"


def _wanted(key: str, value: str | None) -> Requirement:
    return Requirement(key, Operator.EXISTS) if value is None else Requirement(key, Operator.EQUALS, (value,))


def _requirements(selector: str) -> Sequence[Requirement]:
    try:
        return parse_selector(selector).requirements
    except BadSelectorError:
        return ()
