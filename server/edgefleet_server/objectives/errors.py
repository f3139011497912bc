"""What objectives refuse."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgefleet_protocol.errors import EdgefleetError


class ObjectiveError(EdgefleetError):
    """Base of all errors of objectives."""

    code = "slo.failed"


class SloUnknownError(ObjectiveError):
    """No objective has this name."""

    code = "slo.unknown"


class BadSloError(ObjectiveError):
    """The file of an objective cannot be read. errors: each mistake, with `path` (`$.spec.objectives[0].target`) and `message`."""

    code = "slo.bad_file"
    default_next_step = "correct the fields listed in `errors`; the reference is `docs/reference/slo.md`"

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        many = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        first = f"{errors[0]['path']}: {errors[0]['message']}"
        super().__init__(f"the objective has {many}; first: {first}")
        self.errors: list[dict[str, Any]] = [dict(one) for one in errors]


class SloNameError(ObjectiveError):
    """The name in the address is not the one in the file."""

    code = "slo.name_mismatch"


class TooManySlosError(ObjectiveError):
    """There are as many objectives as there may be."""

    code = "slo.too_many"
