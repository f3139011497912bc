"""Reads a price file: every mistake at once, each with its place and what was expected there. Pure."""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from edgefleet_server.costing.errors import BadPricesError
from edgefleet_server.costing.model import GroupPrice, Prices

CURRENCY: Final = re.compile(r"[A-Z]{3}")
GROUP: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
OF_GROUPS: Final = ("down_gb", "up_gb")
UNITS: Final[Mapping[str, str]] = {
    "down_gb": "of 10^9 bytes sent to devices",
    "up_gb": "of 10^9 bytes from devices",
    "device_hour": "of an hour in which a device serves a model",
    "kwh": "of a kilowatt-hour of devices",
    "conversion_hour": "of an hour of a conversion worker",
    "stored_gb_month": "of 10^9 bytes kept for 30 days",
}
MOST_PRICE: Final = 1e9
MOST_GROUPS: Final = 100
MOST_ERRORS: Final = 50


def parsed(document: Any) -> Prices:
    """Return the prices of a parsed file. Raises BadPricesError."""
    errors: list[dict[str, str]] = []
    if not isinstance(document, Mapping):
        raise BadPricesError([{"path": "$", "message": "expected fields such as `currency: EUR` and `down_gb: 0.09`"}])
    _unknown(document, ("currency", "groups", *UNITS), "$", errors)
    currency = document.get("currency")
    if not isinstance(currency, str) or not CURRENCY.fullmatch(currency):
        found = "it is missing" if currency is None else f"found {_short(currency)}"
        errors.append({"path": "$.currency", "message": f"expected three capital letters, such as EUR; {found}"})
    prices = {name: _price(document.get(name), f"$.{name}", UNITS[name], errors) for name in UNITS}
    groups = _groups(document.get("groups"), errors)
    if not errors and not groups and all(one is None for one in prices.values()):
        errors.append({"path": "$", "message": f"it has no price; known are {', '.join(UNITS)}"})
    if errors:
        raise BadPricesError(errors[:MOST_ERRORS])
    return Prices(currency=str(currency), groups=groups, **prices)


def document_of(prices: Prices) -> dict[str, Any]:
    """Return prices as a file has them, in normal form."""
    found: dict[str, Any] = {"currency": prices.currency}
    found |= {name: value for name in UNITS if (value := getattr(prices, name)) is not None}
    if prices.groups:
        found["groups"] = [
            {"group": one.group} | {name: value for name in OF_GROUPS if (value := getattr(one, name)) is not None}
            for one in prices.groups
        ]
    return found


def _groups(value: Any, errors: list[dict[str, str]]) -> tuple[GroupPrice, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_GROUPS:
        example = "[{group: mobile, down_gb: 4}]"
        errors.append({"path": "$.groups", "message": f"expected a list of at most {MOST_GROUPS}, such as {example}"})
        return ()
    found: list[GroupPrice] = []
    for at, one in enumerate(value):
        path = f"$.groups[{at}]"
        if not isinstance(one, Mapping):
            errors.append({"path": path, "message": "expected fields such as `group: mobile` and `down_gb: 4`"})
            continue
        _unknown(one, ("group", *OF_GROUPS), path, errors)
        name = one.get("group")
        if not isinstance(name, str) or not GROUP.fullmatch(name):
            errors.append({"path": f"{path}.group", "message": f"expected the name of a group; found {_short(name)}"})
            continue
        if any(name == before.group for before in found):
            errors.append({"path": f"{path}.group", "message": f"{name} is listed twice"})
        own = {unit: _price(one.get(unit), f"{path}.{unit}", UNITS[unit], errors) for unit in OF_GROUPS}
        if own == dict.fromkeys(OF_GROUPS) and not errors:
            errors.append({"path": path, "message": "it has no price; write down_gb, up_gb or both"})
        found.append(GroupPrice(name, **own))
    return tuple(found)


def _price(value: Any, path: str, unit: str, errors: list[dict[str, str]]) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= MOST_PRICE:
        wanted = f"expected the price {unit}, a number from 0 to {MOST_PRICE:g}"
        errors.append({"path": path, "message": f"{wanted}; found {_short(value)}"})
        return None
    return float(value)


def _unknown(document: Mapping[Any, Any], known: tuple[str, ...], path: str, errors: list[dict[str, str]]) -> None:
    for name in document:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            errors.append({"path": f"{path}.{_short(name)}", "message": f"there is no such field; {advice}"})


def _short(value: Any) -> str:
    return "nothing" if value is None else str(value)[:40]
