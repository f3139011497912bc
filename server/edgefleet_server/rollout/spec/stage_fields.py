"""Reads the stages of a spec, and finds what is wrong with them together. Pure.

Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from edgefleet_server.rollout.spec.fields import (
    FLAG,
    NAME,
    SPOILT,
    TEXT,
    Advice,
    Checked,
    Loc,
    Maybe,
    Mistake,
    Part,
    duration,
    given,
    is_whole,
    named,
    number,
    place,
    whole,
)
from edgefleet_server.rollout.spec.gates import Judges, check_judges
from edgefleet_server.rollout.spec.model import Mode, Promote, Size, StageGate, StageShape, StageSpec
from edgefleet_server.rollout.spec.quality import ALL
from edgefleet_server.rollout.spec.rate_limits import RateIn
from edgefleet_server.rollout.spec.targeting import AskedApproval, selector_flaw
from edgefleet_server.rollout.spec.webhooks import Webhooks

MAX_STAGES: Final = 32
MAX_COUNT: Final = 1_000_000
DEFAULT_SOAK: Final = timedelta(minutes=10)

Count = Annotated[int, whole(1, MAX_COUNT)]
_ORDER: Final = {mode: rank for rank, mode in enumerate(Mode)}
_ADD_ONE: Final = "add a stage {name: rest, size: {percent: 100}}, or narrow the selector"
_MUST_END: Final = (
    "the last stage must be `percent: 100`, or the rollout would end with devices that nobody decided about; "
    + _ADD_ONE
)
Usable = Sequence[tuple[int, "RolloutStageIn"]]
"""Stages whose size can be read, each with its index."""


class StageSizeIn(Checked):
    """How far a stage reaches: exactly one of percent and count; min: so many devices of each stratum at least."""

    percent: Maybe[Annotated[float, number(0, 100)]] = None
    count: Maybe[Count] = None
    min: Maybe[Count] = None
    count_total: Annotated[bool, FLAG] = False

    def flaws(self) -> Iterator[Mistake]:
        """Yield what does not fit."""
        if not is_whole(self):
            return
        if (self.percent is None) == (self.count is None):
            got = "both" if self.percent is not None else "neither"
            yield (), f"expected exactly one of percent and count, got {got}"
        elif self.count_total and self.count is None:
            why = "only a count can be over all strata; remove it, or write a count instead of percent"
            yield ("count_total",), why

    def size(self) -> Size:
        """Return the size."""
        return Size(self.percent, self.count, self.min or 0, self.count_total)


class RolloutStageIn(Part):
    """One stage. soak: how long a device must run the release before it counts as healthy."""

    name: Maybe[Annotated[str, named(NAME)]] = None
    size: Annotated[StageSizeIn, Advice("write {percent: 50} or {count: 10}")]
    soak: Maybe[Annotated[timedelta, duration()]] = None
    promote: Maybe[Promote] = None
    gates: Maybe[Judges] = None
    webhook: Maybe[Webhooks] = None
    rate: RateIn | None = None
    match: Annotated[str, TEXT] = ""
    mode: Mode = Mode.ACTIVE
    share_pct: Maybe[Annotated[int, whole(1, 99)]] = None
    approval: AskedApproval = None

    def called(self, index: int) -> str:
        """Return the stage's name, "" when it is not one."""
        return "" if self.name is SPOILT else self.name or f"stage-{index + 1}"

    def stage(self, index: int, promote: Promote, *, is_last: bool) -> StageSpec:
        """Return the stage. index: which it is; promote: the spec's rule."""
        approval = None if self.approval is None else self.approval.approval()
        judges = ALL if self.gates is None else tuple(one for one in ALL if one in self.gates)
        return StageSpec(
            name=self.called(index),
            size=self.size.size(),
            soak=given(self.soak, timedelta() if is_last else DEFAULT_SOAK),
            promote=self.promote or promote,
            gates=tuple(one.gate(which) for which, one in enumerate(self.webhook or ())),
            rate=None if self.rate is None else self.rate.rate(),
            shape=StageShape(self.match, self.mode, self.share_pct or 0, approval),
            judged_by=judges,
        )


# ---- what is wrong with stages that can be read one by one


def check_stages(stages: Sequence[RolloutStageIn], at: Loc, *, has_quality: bool) -> Iterator[Mistake]:
    """Yield what is wrong with stages together. at: where they stand; has_quality: the spec has a quality gate."""
    judges: dict[int, Sequence[Any]] = {}
    for index, stage in enumerate(stages):
        if stage is SPOILT:
            continue
        yield from _check_shape(stage, (*at, index), is_last=index == len(stages) - 1)
        flaws = list(check_judges(given(stage.gates, None), (*at, index, "gates"), has_quality=has_quality))
        yield from flaws
        judges[index] = ALL if flaws else given(stage.gates, ALL)
    usable = [(index, stage) for index, stage in enumerate(stages) if stage is not SPOILT and is_whole(stage.size)]
    yield from _check_names(usable, at)
    yield from _check_modes(usable, at)
    yield from _check_growth(usable, at)
    if usable and usable[-1][0] == len(stages) - 1 and usable[-1][1].size.percent != 100:
        yield (*at, len(stages) - 1, "size"), _MUST_END
    if has_quality and usable and not any(StageGate.QUALITY in judges[index] for index, _ in usable):
        why = "no stage is judged by it; name quality in the gates of a stage, or remove it here"
        yield (*at[:-1], "gates", "quality"), why


def _check_shape(stage: RolloutStageIn, at: Loc, *, is_last: bool) -> Iterator[Mistake]:
    mode, share = given(stage.mode, Mode.ACTIVE), stage.share_pct
    if share is not SPOILT and (share is not None) != (mode is Mode.SPLIT):
        missing = "is missing: how many of 100 requests the release answers in mode split, for example 10"
        yield (*at, "share_pct"), missing if share is None else "only a stage of mode split has a share; remove it"
    match = given(stage.match, "")
    if match and (flaw := selector_flaw(match)):
        yield (*at, "match"), flaw
    if is_last and mode is not Mode.ACTIVE:
        why = "the last stage must be active, or the rollout would end with a release that serves nowhere"
        yield (*at, "mode"), why
    if is_last and match:
        yield (*at, "match"), f"the last stage takes every device; {_ADD_ONE}"


def _check_names(usable: Usable, at: Loc) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, stage in usable:
        name = stage.called(index)
        if name in first:
            earlier = place((*at, first[name]))
            yield (*at, index, "name"), f"{name!r} is also the name of {earlier}; stages need different names"
        elif name:
            first[name] = index


def _check_modes(usable: Usable, at: Loc) -> Iterator[Mistake]:
    """Yield where a stage goes back to a mode that takes less of a device: what serves is not made a trial again."""
    before = Mode.SHADOW
    for index, stage in usable:
        mode = given(stage.mode, Mode.ACTIVE)
        if _ORDER[mode] < _ORDER[before]:
            why = f"{mode.value} after {before.value}: shadow comes first, then split, then active"
            yield (*at, index, "mode"), why
        before = max(before, mode, key=_ORDER.__getitem__)


def _check_growth(usable: Usable, at: Loc) -> Iterator[Mistake]:
    largest: dict[str, StageSizeIn] = {}  # of each match: stages that take others from different devices do not compare
    for index, stage in usable:
        size, match = stage.size, given(stage.match, "")
        if match in largest and (why := _shrinks(largest[match], size)):
            yield (*at, index, "size"), why
        largest[match] = size


def _shrinks(before: StageSizeIn, after: StageSizeIn) -> str:
    """Return why a stage can be smaller than the one before it, "" when it cannot by what is written."""
    if before.percent is not None:
        if after.percent is None:
            return "a count after a percentage can be smaller than it in a large fleet; write counts first, then percentages"
        if after.percent < before.percent:
            return f"{size_text(after.size())} is less than the {size_text(before.size())} of the stage before; stages only grow"
        return ""
    if after.count is None:
        return ""
    assert before.count is not None
    if after.count_total and not before.count_total:
        return "a count over all strata after a count per stratum can be smaller; write totals first"
    if after.count < before.count:
        return f"{size_text(after.size())} is less than the {size_text(before.size())} of the stage before; stages only grow"
    return ""


def size_text(size: Size) -> str:
    """Return a size in words: `50 %, at least 2`, `1 per stratum`, `10 over all strata`."""
    if size.percent is not None:
        text = f"{size.percent:.15g} %"
    else:
        text = f"{size.count} over all strata" if size.count_total else f"{size.count} per stratum"
    least = "at least {} per stratum" if size.count_total else "at least {}"
    return f"{text}, {least.format(size.min)}" if size.min else text
