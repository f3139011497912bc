"""Reads a rollout's spec, and writes it back in normal form. Pure.

- Every mistake is listed at once, each with its place (`$.stages[1].size.percent`) and what was expected there: what cannot be read is
  noted and spoilt, and the rest is looked at all the same.
- The normal form has every field written out, but for the defaults that depend on others: parsing it gives the same spec.
Reference: docs/reference/rollout-spec.md; for editors: docs/reference/rollout-spec.schema.json, made of the same classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache, lru_cache
from typing import Annotated, Any, Final

import msgspec
from pydantic import TypeAdapter

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.fields import NO_ROLLBACK, PREVIOUS, constant, named, selector_flaw
from edgefleet_server.rollout.spec.model import (
    COMPARED,
    DEFAULT_MAX,
    Control,
    Metric,
    Mode,
    OnFail,
    Promote,
    QualityGate,
    Size,
    Spec,
    StageGate,
    StageSpec,
)
from edgefleet_server.rollout.spec.parts import (
    LATER,
    SPOILT,
    Advice,
    ExpectedError,
    Loc,
    Mistake,
    Notes,
    fields_of,
    given,
    in_words,
    inside,
    is_part,
    is_whole,
    normal_form,
    part,
    place,
    shown,
)
from edgefleet_server.rollout.spec.strategies import STRATEGIES

API_VERSION: Final = "edgefleet/v1"
KIND: Final = "Rollout"
MAX_ERRORS: Final = 100
DEFAULT_SOAK: Final = timedelta(minutes=10)

_DOCUMENT: Final = ("apiVersion", "kind", "metadata", "spec")
_TITLE: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_MAX_DEPTH: Final = 16
"""No place in a spec is deeper; what lies below is left as it is."""
_MAX_ROUNDS: Final = 16
"""Each round goes at least one level up in a document, so they end long before."""
_ORDER: Final = {mode: rank for rank, mode in enumerate(Mode)}
_ADD_ONE: Final = "add a stage {name: rest, size: {percent: 100}}, or narrow the selector"
_MUST_END: Final = (
    "the last stage must be `percent: 100`, or the rollout would end with devices that nobody decided about; "
    + _ADD_ONE
)
_STAGE_ORDER: Final = (
    *("name", "size", "soak", "promote", "webhook", "rate", "gates", "match", "mode", "share_pct", "approval"),
)
Usable = Sequence[tuple[int, StageSpec]]
"""Stages whose size can be read, each with its index."""


@part("RolloutMetadataIn")
class Metadata:
    """The rollout's name."""

    name: Annotated[str, named(_TITLE)] = LATER


@part("RolloutDocumentIn", names={"api_version": "apiVersion"}, kw_only=True)
class Document:
    """A spec with its name and version around it, as a file holds it."""

    api_version: Annotated[str, constant(API_VERSION, repr(API_VERSION)), Advice(f"write apiVersion: {API_VERSION}")]
    kind: Annotated[str, constant(KIND, repr(KIND)), Advice(f"write kind: {KIND}")]
    metadata: Metadata = Metadata()
    spec: Annotated[Spec, Advice("put the rollout's fields there")]


def stored_spec(document: Mapping[str, Any]) -> Spec:
    """Return the spec of a rollout's row, which is in normal form: one that is asked for again and again is read once.

    A row without `liars` was written when no rule knew it, and one failure was enough for a plain rule: its rollout is judged to its end
    by the rules that it began with.
    """
    return _stored(msgspec.json.encode(document))


@lru_cache(maxsize=2_000)
def _stored(document: bytes) -> Spec:
    spec = msgspec.json.decode(document)
    gate = spec.setdefault("gates", {}).setdefault("install", {})
    if "liars" not in gate:
        gate["liars"], spec["on_unconfirmed"] = 0, OnFail.ROLLBACK.value
    return parse_spec(spec)


def parse_spec(document: Any) -> Spec:
    """Return the spec that a parsed JSON or YAML document writes: a spec, or a whole document around one.

    Raises BadSpecError with every mistake that was found.
    """
    if not isinstance(document, dict) or not any(key in document for key in _DOCUMENT):
        spec, mistakes = _read(Spec, document)
        return _checked(Spec, spec, "", (), mistakes)
    whole, mistakes = _read(Document, document)
    name = "" if whole.metadata is SPOILT else given(whole.metadata.name, "")
    return _checked(Document, whole.spec, name, ("spec",), mistakes)


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read(kind: type, document: Any) -> tuple[Any, list[Mistake]]:
    """Return a document as a part, and what is wrong with it. What cannot be read is spoilt."""
    notes = Notes()
    return _adapter(kind).validate_python(document, context=notes), notes.found


def _checked(kind: type, spec: Spec, name: str, at: Loc, mistakes: list[Mistake]) -> Spec:
    """Return what a spec means, once it is looked at as a whole. mistakes: those in its fields, kind: of the document."""
    if spec is not SPOILT:
        mistakes += _check(spec, at)
        if not mistakes:
            return _filled(spec, name)
    ordered = sorted(mistakes, key=lambda mistake: [*_ranks(kind, mistake[0])])
    raise BadSpecError(errors=[{"path": place(loc), "message": message} for loc, message in ordered[:MAX_ERRORS]])


def _ranks(kind: Any, loc: Loc) -> Iterator[int]:
    """Yield the key that sorts places in the order of the fields, unknown ones first."""
    for step in loc:
        if isinstance(step, int):
            yield step
            continue
        known = fields_of(kind) if kind is not None else {}
        yield [*known].index(step) + 1 if step in known else 0
        annotation = known[step].annotation if step in known else None
        kind = next((one for one in inside(annotation) if isinstance(one, type) and is_part(one)), None)


def _filled(spec: Spec, name: str) -> Spec:
    """Return a spec with the defaults that depend on others."""
    if spec.stages is LATER:
        usual = STRATEGIES[given(spec.strategy, "canary")].stages
        stages = tuple(replace(one, promote=spec.promote) for one in usual)
    else:
        last = len(spec.stages) - 1
        stages = tuple(_filled_stage(one, n, spec.promote, is_last=n == last) for n, one in enumerate(spec.stages))
    return replace(
        spec,
        stages=stages,
        strategy=LATER,
        promote=Promote.AUTO,
        offline=replace(spec.offline, after=given(spec.offline.after, spec.device.ack)),
        name=name,
    )


def _filled_stage(stage: StageSpec, index: int, promote: Promote, *, is_last: bool) -> StageSpec:
    rate, judged_by = stage.rate, given(stage.judged_by, tuple(StageGate))
    return replace(
        stage,
        name=_called(stage, index),
        soak=given(stage.soak, timedelta() if is_last else DEFAULT_SOAK),
        promote=given(stage.promote, promote),
        gates=tuple(
            replace(one, name=given(one.name, f"{one.kind.value}-{n}")) for n, one in enumerate(stage.gates, 1)
        ),
        rate=rate and replace(rate, max=given(rate.max, max(rate.start, DEFAULT_MAX))),
        judged_by=tuple(one for one in StageGate if one in judged_by),
    )


def _called(stage: StageSpec, index: int) -> str:
    """Return a stage's name, "" when it is not one."""
    return "" if stage.name is SPOILT else given(stage.name, f"stage-{index + 1}")


# ---- what is written


def dump_spec(spec: Spec) -> dict[str, Any]:
    """Return the normal form of a spec: what JSON can hold, durations as text. The name is not part of it."""
    made: dict[str, Any] = normal_form(spec)
    made["stages"] = [{name: one[name] for name in _STAGE_ORDER if name in one} for one in made["stages"]]
    return made


def dump_document(spec: Spec) -> dict[str, Any]:
    """Return the whole document of a spec, as a file would hold it: with the name, when it has one."""
    metadata = {"metadata": {"name": spec.name}} if spec.name else {}
    return {"apiVersion": API_VERSION, "kind": KIND, **metadata, "spec": dump_spec(spec)}


def with_versions(spec: Spec, resolve: Callable[[str], ReleaseRef]) -> Spec:
    """Return a spec that names versions only: what `name@alias` means is looked up once, so that what goes out is what was approved.

    Raises BadSpecError when the release to roll back to turns out to be the release itself.
    """
    release, back = str(resolve(spec.release)), spec.rollback_to
    if back not in (PREVIOUS, NO_ROLLBACK):
        back = str(resolve(back))
        if back == release:
            message = f"{spec.rollback_to} is {release}, the release that goes out; name an earlier one"
            raise BadSpecError(errors=[{"path": "spec.rollback_to", "message": message}])
    return replace(spec, release=release, rollback_to=back)


def stage_text(stage: StageSpec) -> str:
    """Return whom a stage reaches, and how, in words: `10 %, of tz=EU, as a shadow, without the quality gate`."""
    parts = [size_text(stage.size)]
    if stage.match:
        parts.append(f"of {stage.match}")
    if stage.mode is Mode.SHADOW:
        parts.append("as a shadow")
    elif stage.mode is Mode.SPLIT:
        parts.append(f"for {stage.share_pct} % of the requests")
    if stage.approval is not None:
        parts.append(f"once approved ({stage.approval.role.value})")
    if StageGate.QUALITY not in stage.judged_by:
        parts.append("without the quality gate")
    return ", ".join(parts)


def size_text(size: Size) -> str:
    """Return a size in words: `50 %, at least 2`, `1 per stratum`, `10 over all strata`."""
    if size.percent is not None:
        text = f"{size.percent:.15g} %"
    else:
        text = f"{size.count} over all strata" if size.count_total else f"{size.count} per stratum"
    least = "at least {} per stratum" if size.count_total else "at least {}"
    return f"{text}, {least.format(size.min)}" if size.min else text


# ---- what is wrong with fields that can be read one by one


def _check(spec: Spec, at: Loc) -> Iterator[Mistake]:
    """Yield what is wrong with a spec as a whole. at: where it stands."""
    quality = None if spec.gates is SPOILT else spec.gates.quality
    if quality is not None and quality is not SPOILT:
        yield from _check_quality(quality, (*at, "gates", "quality"))
    if given(spec.stages, ()):
        yield from _check_stages(spec.stages, (*at, "stages"), has_quality=quality is not None)
    if spec.strategy is not LATER and spec.stages is not LATER:
        yield (*at, "strategy"), "a strategy stands for its stages; remove one of strategy and stages"
    elif spec.strategy is not LATER and not (isinstance(spec.strategy, str) and spec.strategy in STRATEGIES):
        yield (*at, "strategy"), in_words(ExpectedError(f"one of {', '.join(STRATEGIES)}"), spec.strategy)
    if spec.release is not SPOILT and (flaw := _rollback_flaw(given(spec.rollback_to, PREVIOUS), spec.release)):
        yield (*at, "rollback_to"), flaw


def _rollback_flaw(back: str, release: str) -> str:
    """Return why a release cannot go back to what `rollback_to` names, "" when it can."""
    if back in (PREVIOUS, NO_ROLLBACK):
        return ""
    if ReleaseRef.parse(back).model != ReleaseRef.parse(release).model:
        return f"{back} is a release of another model than {release}; a device goes back within its model"
    return f"{back} is the release that goes out; name an earlier one, or write previous" if back == release else ""


def _check_quality(gate: QualityGate, at: Loc) -> Iterator[Mistake]:
    if gate.metrics is SPOILT:
        return
    if not gate.metrics:
        yield (*at, "metrics"), "expected at least one metric; leave `quality` out for none"
    found: dict[Metric, Loc] = {}
    for index, metric in enumerate(gate.metrics):
        if metric is SPOILT:
            continue
        here, name = (*at, "metrics", index), metric.name.value
        is_compared = metric.name is Metric.DRIFT or metric.bound in COMPARED
        if gate.control is Control.NONE and is_compared:
            yield here, f"{name} is compared with something here, but control is none; write max, or another control"
        elif is_whole(metric) and metric.name in found:
            yield (*here, "name"), f"{name!r} is also the name of {place(found[metric.name])}; once is enough"
        elif is_whole(metric):
            found[metric.name] = here


def _check_stages(stages: Sequence[StageSpec], at: Loc, *, has_quality: bool) -> Iterator[Mistake]:
    judges: dict[int, Sequence[Any]] = {}
    for index, stage in enumerate(stages):
        if stage is SPOILT:
            continue
        yield from _check_shape(stage, (*at, index), is_last=index == len(stages) - 1)
        flaws = list(_check_judges(stage.judged_by, (*at, index, "gates"), has_quality=has_quality))
        yield from flaws
        judges[index] = tuple(StageGate) if flaws else given(stage.judged_by, tuple(StageGate))
    usable = [(index, stage) for index, stage in enumerate(stages) if stage is not SPOILT and is_whole(stage.size)]
    yield from _check_sequence(usable, at)
    if usable and usable[-1][0] == len(stages) - 1 and usable[-1][1].size.percent != 100:
        yield (*at, len(stages) - 1, "size"), _MUST_END
    if has_quality and usable and not any(StageGate.QUALITY in judges[index] for index, _ in usable):
        why = "no stage is judged by it; name quality in the gates of a stage, or remove it here"
        yield (*at[:-1], "gates", "quality"), why


def _check_shape(stage: StageSpec, at: Loc, *, is_last: bool) -> Iterator[Mistake]:
    mode, match = given(stage.mode, Mode.ACTIVE), given(stage.match, "")
    if stage.share_pct is not SPOILT and (stage.share_pct != 0) != (mode is Mode.SPLIT):
        missing = "is missing: how many of 100 requests the release answers in mode split, for example 10"
        yield (*at, "share_pct"), "only a stage of mode split has a share; remove it" if stage.share_pct else missing
    if match and (flaw := selector_flaw(match)):
        yield (*at, "match"), flaw
    if is_last and mode is not Mode.ACTIVE:
        why = "the last stage must be active, or the rollout would end with a release that serves nowhere"
        yield (*at, "mode"), why
    if is_last and match:
        yield (*at, "match"), f"the last stage takes every device; {_ADD_ONE}"
    names = [
        given(one.name, f"{one.kind.value}-{n}") for n, one in enumerate(given(stage.gates, ()), 1) if is_whole(one)
    ]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield (*at, "webhook"), f"the name {name!r} is given twice; gates of a stage need different names"


def _check_judges(judges: Sequence[Any], at: Loc, *, has_quality: bool) -> Iterator[Mistake]:
    """Yield what is wrong with the gates that a stage names. has_quality: the spec has a quality gate."""
    if judges is LATER or judges is SPOILT:
        return
    flaws: list[Mistake] = []
    for index, item in enumerate(judges):
        if item not in [*StageGate]:
            why = f"expected {' or '.join(StageGate)}, got {shown(item)}; other programs are asked by webhook"
        elif item == StageGate.QUALITY and not has_quality:
            why = "this spec has no gates.quality; write there what it asks, or leave quality out here"
        elif item in judges[:index]:
            why = f"{item!r} is named twice"
        else:
            continue
        flaws.append(((*at, index), why))
    if not flaws and StageGate.INSTALL not in judges:
        why = "install judges every stage: what fails on a device stops it; write [install] or [install, quality]"
        flaws.append((at, why))
    yield from flaws


def _check_sequence(usable: Usable, at: Loc) -> Iterator[Mistake]:
    """Yield where a stage does not follow from those before it: what serves is not made a trial again, and stages only grow."""
    first: dict[str, int] = {}
    largest: dict[str, Size] = {}  # of each match: stages that take others from different devices do not compare
    before = Mode.SHADOW
    for index, stage in usable:
        here, name = (*at, index), _called(stage, index)
        mode, match = given(stage.mode, Mode.ACTIVE), given(stage.match, "")
        if name in first:
            earlier = place((*at, first[name]))
            yield (*here, "name"), f"{name!r} is also the name of {earlier}; stages need different names"
        elif name:
            first[name] = index
        if _ORDER[mode] < _ORDER[before]:
            yield (*here, "mode"), f"{mode} after {before}: shadow comes first, then split, then active"
        if match in largest and (why := _shrinks(largest[match], stage.size)):
            yield (*here, "size"), why
        before, largest[match] = max(before, mode, key=_ORDER.__getitem__), stage.size


def _shrinks(before: Size, after: Size) -> str:
    """Return why a stage can be smaller than the one before it, "" when it cannot by what is written."""
    is_less = f"{size_text(after)} is less than the {size_text(before)} of the stage before; stages only grow"
    if before.percent is not None:
        if after.percent is None:
            return "a count after a percentage can be smaller than it in a large fleet; write counts first, then percentages"
        return is_less if after.percent < before.percent else ""
    if after.count is None or before.count is None:
        return ""
    if after.count_total and not before.count_total:
        return "a count over all strata after a count per stratum can be smaller; write totals first"
    return is_less if after.count < before.count else ""


def releases_in(spec: Spec) -> list[ReleaseRef]:
    """Return the releases that a spec names: its own, and the one to go back to."""
    named = [spec.release] if spec.rollback_to in (PREVIOUS, NO_ROLLBACK) else [spec.release, spec.rollback_to]
    return [ReleaseRef.parse(one) for one in named]
