"""Reads the fields of a spec that say whom a rollout reaches and in which form, and writes them back. Pure.

Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.selectors.grammar import is_label_key, parse_selector
from edgefleet_server.rollout.spec.fields import (
    ExpectedError,
    Mistake,
    Part,
    Read,
    duration,
    in_words,
    listed,
    shown,
    stop_at,
    text,
)
from edgefleet_server.rollout.spec.model import (
    NO_WAY_BACK,
    PREVIOUS,
    PROFILE,
    RUNTIME,
    Approval,
    Mode,
    SpecShape,
    StageShape,
    duration_text,
)

MAX_STRATUM_KEYS: Final = 3
NO_APPROVAL: Final = "none"


def selector_flaw(selector: str) -> str:
    """Return what is wrong with a selector, "" when nothing is."""
    try:
        parse_selector(selector)
    except EdgefleetError as error:
        return f"{error.message} {error.next_step}".strip()
    return ""


def _selector(value: Any) -> str:
    if flaw := selector_flaw(text(value)):
        raise ValueError(flaw)
    return str(value)


Selector = Annotated[str, Read(_selector, {"type": "string"})]


def _release(value: Any) -> str:
    try:
        return str(ReleaseRef.parse(text(value)))
    except EdgefleetError as error:
        raise ValueError(f"expected a release as model@version: {error.message}") from error


Release = Annotated[str, Read(_release, {"type": "string", "pattern": "^[^@]+@.+$"})]


def _not_viewer(role: Role) -> Role:
    if role is Role.VIEWER:
        raise ValueError("a viewer decides nothing; write operator, publisher, approver or admin")
    return role


class ApprovalIn(Part):
    """Whose word a stage needs before it opens, and how long they have."""

    role: Annotated[Role, AfterValidator(_not_viewer)] = Role.APPROVER
    timeout: Annotated[timedelta, duration(positive=True)] = Approval().timeout

    def approval(self) -> Approval:
        """Return the rule."""
        return Approval(self.role, self.timeout)


def _approval(value: Any) -> Any:
    if value != NO_APPROVAL and not isinstance(value, dict):
        raise ExpectedError("none or {role: approver, timeout: 48h}")
    return None if value == NO_APPROVAL else value


AskedApproval = Annotated[
    ApprovalIn | None, BeforeValidator(_approval, json_schema_input_type=ApprovalIn | Literal["none"])
]


def dump_stage_shape(shape: StageShape) -> dict[str, Any]:
    """Return the normal form of a stage's form."""
    asked = shape.approval
    share = {"share_pct": shape.share_pct} if shape.mode is Mode.SPLIT else {}
    return {
        "match": shape.match,
        "mode": shape.mode.value,
        **share,
        "approval": NO_APPROVAL
        if asked is None
        else {"role": asked.role.value, "timeout": duration_text(asked.timeout)},
    }


def dump_spec_shape(shape: SpecShape) -> dict[str, Any]:
    """Return the normal form of a rollout's form."""
    return {
        "membership": shape.membership.value,
        "supersede": shape.supersede.value,
        "rollback_to": shape.rollback_to,
        "strata": list(shape.strata),
    }


def shape_text(shape: StageShape) -> str:
    """Return a stage's form in words, "" for an ordinary one: `of tz=EU, as a shadow, once approved (approver)`."""
    parts = []
    if shape.match:
        parts.append(f"of {shape.match}")
    if shape.mode is Mode.SHADOW:
        parts.append("as a shadow")
    elif shape.mode is Mode.SPLIT:
        parts.append(f"for {shape.share_pct} % of the requests")
    if shape.approval is not None:
        parts.append(f"once approved ({shape.approval.role.value})")
    return ", ".join(parts)


def _way_back(value: Any) -> str:
    written = text(value)
    if written in (PREVIOUS, NO_WAY_BACK):
        return written
    try:
        return str(ReleaseRef.parse(written))
    except EdgefleetError:
        raise ExpectedError("previous, none or a release as model@version") from None


WayBack = Annotated[str, Read(_way_back, {"type": "string"})]


def way_back_flaw(back: str, release: str) -> str:
    """Return why a release cannot go back to what `rollback_to` names, "" when it can."""
    if back in (PREVIOUS, NO_WAY_BACK):
        return ""
    if ReleaseRef.parse(back).model != ReleaseRef.parse(release).model:
        return f"{back} is a release of another model than {release}; a device goes back within its model"
    return f"{back} is the release that goes out; name an earlier one, or write previous" if back == release else ""


def _strata(value: Any) -> tuple[str, ...]:
    found = listed(value)
    other = [(index, key) for index, key in enumerate(found) if not isinstance(key, str)]
    stop_at(((index,), in_words(ExpectedError("text"), key)) for index, key in other)
    stop_at(_strata_flaws(found))
    return tuple(found)


def _strata_flaws(found: Sequence[str]) -> Iterator[Mistake]:
    for index, key in enumerate(found):
        if found.count(key) > 1:
            yield (index,), f"{key!r} is named twice"
        elif key not in (PROFILE, RUNTIME) and not is_label_key(key):
            yield (index,), f"{shown(key)} is no key of a label; expected profile, runtime or keys of labels"
    labels = [key for key in found if key not in (PROFILE, RUNTIME)]
    if not found or found[0] != PROFILE:
        yield (), "the first stratum is profile: each profile has a bundle of its own, so it is judged by itself"
    elif len(labels) >= MAX_STRATUM_KEYS:
        most = MAX_STRATUM_KEYS - 1
        yield (), f"expected at most {most} keys of labels, got {len(labels)}: strata would be too small"


Strata = Annotated[tuple[str, ...], Read(_strata, {"type": "array", "items": {"type": "string"}, "minItems": 1})]
