"""What costs refuse."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgefleet_protocol.errors import EdgefleetError


class CostError(EdgefleetError):
    """Base of all errors of costs."""

    code = "cost.failed"


class BadPricesError(CostError):
    """A price file cannot be read. errors: each mistake, with `path` (`$.groups[0].down_gb`) and `message`."""

    code = "cost.bad_prices"
    default_next_step = "correct the fields listed in `errors`; docs/operate/cost.md has an example"

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        many = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        first = f"{errors[0]['path']}: {errors[0]['message']}"
        super().__init__(f"the prices have {many}; first: {first}")
        self.errors: list[dict[str, Any]] = [dict(one) for one in errors]


class NoPricesError(CostError):
    """No prices are set."""

    code = "cost.no_prices"


class CostSpanError(CostError):
    """A span of time that ends before it begins, or from which nothing is kept."""

    code = "cost.bad_span"
