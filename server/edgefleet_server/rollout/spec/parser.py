"""Reads a rollout's spec, and writes it back in normal form. Pure.

- Every mistake is told at once, each with its place (`$.stages[1].size.percent`) and what was expected there.
- Unknown fields are refused: a misspelt bound must not become a default. A field of a later version is unknown, too.
- The normal form has every field written out, but for the defaults that depend on others: parsing it gives the same spec.
Source: docs/reference/rollout-spec.md.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.fleet.selectors.grammar import parse_selector
from edgefleet_server.rollout.analysis.failure_ratio import clean_needed
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.model import (
    DeviceDeadlines,
    Inconclusive,
    InstallGate,
    OnFail,
    Promote,
    Size,
    Spec,
    StageGate,
    StageSpec,
)
from edgefleet_server.rollout.spec.pacing import FIELDS as PACE_FIELDS
from edgefleet_server.rollout.spec.pacing import (
    dump_pacing,
    dump_rate,
    dump_retries,
    dump_start_within,
    read_pacing,
    read_rate,
)
from edgefleet_server.rollout.spec.quality import (
    check_judges,
    dump_judges,
    dump_quality,
    judges_text,
    parse_judges,
    parse_quality,
)
from edgefleet_server.rollout.spec.reader import Place, duration_text
from edgefleet_server.rollout.spec.strategies import STRATEGIES, with_promote
from edgefleet_server.rollout.spec.targeting import (
    SPEC_FIELDS,
    STAGE_FIELDS,
    check_modes,
    dump_spec_shape,
    dump_stage_shape,
    parse_spec_shape,
    parse_stage_shape,
    shape_text,
)
from edgefleet_server.rollout.spec.webhooks import dump_gates, parse_gates

API_VERSION: Final = "edgefleet/v1"
KIND: Final = "Rollout"
MAX_STAGES: Final = 32
MAX_COUNT: Final = 1_000_000
MAX_ALPHA: Final = 0.5
DEFAULT_SOAK: Final = timedelta(minutes=10)
DEFAULT_STAGES: Final = STRATEGIES["canary"].stages

_NAME: Final = "[a-z0-9][a-z0-9-]{0,30}"
_TITLE: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_DOCUMENT: Final = ("apiVersion", "kind", "metadata", "spec")
_SPEC: Final = (
    *("release", "selector", "stages", "strategy", "device", "gates", "promote", "on_fail", "on_inconclusive"),
    *PACE_FIELDS,
    *SPEC_FIELDS,
)
_STAGE: Final = ("name", "size", "soak", "promote", "gates", "webhook", "rate", *STAGE_FIELDS)
_SIZE: Final = ("percent", "count", "min", "count_total")
_DEVICE: Final = (*(f"{field.name}_deadline" for field in fields(DeviceDeadlines)), "retries", "start_within")
_GATE: Final = tuple(field.name for field in fields(InstallGate))


def stored_spec(document: Mapping[str, Any]) -> Spec:
    """Return a spec as `parse_spec` does, of a document in normal form: one that is asked for again and again is read once."""
    return _stored(msgspec.json.encode(document))


@lru_cache(maxsize=2_000)
def _stored(document: bytes) -> Spec:
    return parse_spec(msgspec.json.decode(document))


def parse_spec(document: Any) -> Spec:
    """Return the spec that a parsed JSON or YAML document writes: a spec, or a whole document around one.

    Raises BadSpecError with every mistake that was found.
    """
    root = Place("$", document, [])
    spec = _document(root) if _is_document(document) else _spec(root, "")
    if root.errors or spec is None:
        raise BadSpecError(errors=root.errors)
    return spec


def dump_spec(spec: Spec) -> dict[str, Any]:
    """Return the normal form of a spec: what JSON can hold, durations as text. The name is not part of it."""
    return {
        "release": spec.release,
        "selector": spec.selector,
        "stages": [
            {
                "name": stage.name,
                "size": _dump_size(stage.size),
                "soak": duration_text(stage.soak),
                "promote": stage.promote.value,
                "webhook": dump_gates(stage.gates),
                "rate": dump_rate(stage.rate),
                **dump_judges(stage.judged_by),
                **dump_stage_shape(stage.shape),
            }
            for stage in spec.stages
        ],
        "device": {f"{one.name}_deadline": duration_text(getattr(spec.device, one.name)) for one in fields(spec.device)}
        | {"retries": dump_retries(spec.pacing.retries), **dump_start_within(spec.pacing)},
        "gates": {
            "install": {name: getattr(spec.gate, name) for name in _GATE},
            **({} if spec.quality is None else {"quality": dump_quality(spec.quality)}),
        },
        "on_fail": spec.on_fail.value,
        "on_inconclusive": {
            "after": duration_text(spec.on_inconclusive.after),
            "do": spec.on_inconclusive.do.value,
        },
        **dump_pacing(spec.pacing),
        **dump_spec_shape(spec.shape),
    }


def dump_document(spec: Spec) -> dict[str, Any]:
    """Return the whole document of a spec, as a file would hold it: with the name, when it has one."""
    metadata = {"metadata": {"name": spec.name}} if spec.name else {}
    return {"apiVersion": API_VERSION, "kind": KIND, **metadata, "spec": dump_spec(spec)}


def size_text(size: Size) -> str:
    """Return a size in words: `50 %, at least 2`, `1 per stratum`, `10 over all strata`."""
    if size.percent is not None:
        text = f"{size.percent:.15g} %"
    else:
        text = f"{size.count} over all strata" if size.count_total else f"{size.count} per stratum"
    least = "at least {} per stratum" if size.count_total else "at least {}"
    return f"{text}, {least.format(size.min)}" if size.min else text


def stage_text(stage: StageSpec) -> str:
    """Return whom a stage reaches, and how, in words: `10 %, of tz=EU, as a shadow, without the quality gate`."""
    parts = (size_text(stage.size), shape_text(stage.shape), judges_text(stage.judged_by))
    return ", ".join(part for part in parts if part)


def _dump_size(size: Size) -> dict[str, Any]:
    written: dict[str, Any] = {"percent": size.percent} if size.percent is not None else {"count": size.count}
    if size.min:
        written["min"] = size.min
    if size.count_total:
        written["count_total"] = True
    return written


def _is_document(document: Any) -> bool:
    return isinstance(document, dict) and any(key in document for key in _DOCUMENT)


def _document(root: Place) -> Spec | None:
    root.only(_DOCUMENT)
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        place = root.need(key, f"write {key}: {expected}")
        if place is not None and place.value != expected:
            place.fail(f"expected {expected!r}, got {place.shown()}")
    name = ""
    metadata = root.get("metadata")
    if metadata is not None and metadata.only(("name",)):
        title = metadata.get("name")
        name = (title.text(_TITLE) or "") if title is not None else ""
    spec = root.need("spec", "put the rollout's fields there")
    return _spec(spec, name) if spec is not None else None


def _spec(place: Place, name: str) -> Spec | None:
    if not place.only(_SPEC):
        return None
    release = _release(place)
    selector = _selector(place)
    default = place.choice("promote", Promote, Promote.AUTO)
    written = place.get("stages")
    gates = place.get("gates")
    has_gates = gates is not None and gates.only(tuple(StageGate))
    asked = gates.get("quality") if gates is not None and has_gates else None
    stages = (
        _stages(written, default, has_quality=asked is not None)
        if written is not None
        else _named_stages(place, default)
    )
    if asked is not None:
        check_judges(asked, stages)
    if written is not None and place.get("strategy") is not None:
        place.at("strategy").fail("a strategy stands for its stages; remove one of strategy and stages")
    device = _device(place.get("device"))
    gate = _gate(gates.get("install")) if gates is not None and has_gates else InstallGate()
    return Spec(
        release=release,
        selector=selector,
        stages=stages,
        device=device,
        gate=gate,
        on_fail=place.choice("on_fail", OnFail, OnFail.ROLLBACK),
        on_inconclusive=_inconclusive(place.get("on_inconclusive")),
        pacing=read_pacing(place, device),
        name=name,
        quality=parse_quality(asked),
        shape=parse_spec_shape(place, release),
    )


def _release(place: Place) -> str:
    found = place.need("release", "name the release as model@version")
    if found is None or (text := found.text()) is None:
        return ""
    try:
        return str(ReleaseRef.parse(text))
    except EdgefleetError as error:
        found.fail(f"expected a release as model@version: {error.message}")
        return ""


def _selector(place: Place) -> str:
    # Not every device by default: who forgets the selector must not update the whole fleet.
    found = place.need("selector", "say which devices, for example 'site=lab'; '' means every device")
    if found is None or (text := found.text()) is None:
        return ""
    try:
        parse_selector(text)
    except EdgefleetError as error:
        found.fail(f"{error.message} {error.next_step}".strip())
    return text


def _named_stages(place: Place, promote: Promote) -> tuple[StageSpec, ...]:
    """Return the stages of the strategy that a spec names, those of canary when it names none."""
    named = place.get("strategy")
    if named is None:
        return with_promote(DEFAULT_STAGES, promote)
    if not isinstance(named.value, str) or named.value not in STRATEGIES:
        named.fail(f"expected one of {', '.join(STRATEGIES)}, got {named.shown()}")
        return ()
    return with_promote(STRATEGIES[named.value].stages, promote)


def _stages(place: Place, promote: Promote, *, has_quality: bool) -> tuple[StageSpec, ...]:
    items = place.items()
    if items is None:
        return ()
    if not 1 <= len(items) <= MAX_STAGES:
        place.fail(f"expected 1 to {MAX_STAGES} stages, got {len(items)}")
        return ()
    last = len(items) - 1
    stages = [
        _stage(item, index, promote, is_last=index == last, has_quality=has_quality) for index, item in enumerate(items)
    ]
    _check_names(items, stages)
    check_modes(items, [None if stage is None else stage.shape for stage in stages])
    largest: dict[str, StageSpec] = {}  # of each match: stages that take others from different devices do not compare
    for after, item in zip(stages, items, strict=True):
        before = None if after is None else largest.get(after.shape.match)
        if before is not None and after is not None and (why := _shrinks(before.size, after.size)):
            item.at("size").fail(why)
        if after is not None:
            largest[after.shape.match] = after
    if stages[-1] is not None and stages[-1].size.percent != 100:
        items[-1].at("size").fail(
            "the last stage must be `percent: 100`, or the rollout would end with devices that nobody decided about; "
            "add a stage {name: rest, size: {percent: 100}}, or narrow the selector"
        )
    return tuple(stage for stage in stages if stage is not None)


def _stage(place: Place, index: int, promote: Promote, *, is_last: bool, has_quality: bool) -> StageSpec | None:
    if not place.only(_STAGE):
        return None
    named = place.get("name")
    name = (named.text(_NAME) or "") if named is not None else f"stage-{index + 1}"
    soak = place.duration("soak", timedelta() if is_last else DEFAULT_SOAK)
    own_promote = place.choice("promote", Promote, promote)
    written = place.need("size", "write {percent: 50} or {count: 10}")
    size = _size(written) if written is not None else None
    gates = parse_gates(place.get("webhook"))
    rate = read_rate(place.get("rate"))
    shape = parse_stage_shape(place, is_last=is_last)
    judges = parse_judges(place.get("gates"), has_quality=has_quality)
    return StageSpec(name, size, soak, own_promote, gates, rate, shape, judges) if size is not None else None


def _check_names(items: list[Place], stages: list[StageSpec | None]) -> None:
    first: dict[str, int] = {}
    for index, stage in enumerate(stages):
        if stage is None or not stage.name:
            continue
        if stage.name in first:
            earlier = items[first[stage.name]].path
            items[index].at("name").fail(f"{stage.name!r} is also the name of {earlier}; stages need different names")
        else:
            first[stage.name] = index


def _size(place: Place) -> Size | None:
    if not place.only(_SIZE):
        return None
    before = len(place.errors)
    percent = place.number("percent", 0, 100)
    count = place.whole("count", 1, MAX_COUNT)
    least = place.whole("min", 1, MAX_COUNT)
    is_total = place.flag("count_total")
    if len(place.errors) > before:
        return None
    if (percent is None) == (count is None):
        got = "both" if percent is not None else "neither"
        place.fail(f"expected exactly one of percent and count, got {got}")
        return None
    if is_total and count is None:
        place.at("count_total").fail(
            "only a count can be over all strata; remove it, or write a count instead of percent"
        )
        return None
    return Size(percent=percent, count=count, min=least or 0, count_total=is_total)


def _shrinks(before: Size, after: Size) -> str:
    """Return why a stage can be smaller than the one before it, "" when it cannot by what is written."""
    if before.percent is not None:
        if after.percent is None:
            return "a count after a percentage can be smaller than it in a large fleet; write counts first, then percentages"
        if after.percent < before.percent:
            return f"{size_text(after)} is less than the {size_text(before)} of the stage before; stages only grow"
        return ""
    if after.count is None:
        return ""
    assert before.count is not None
    if after.count_total and not before.count_total:
        return "a count over all strata after a count per stratum can be smaller; write totals first"
    if after.count < before.count:
        return f"{size_text(after)} is less than the {size_text(before)} of the stage before; stages only grow"
    return ""


def _device(place: Place | None) -> DeviceDeadlines:
    usual = DeviceDeadlines()
    if place is None or not place.only(_DEVICE):
        return usual
    return DeviceDeadlines(
        **{
            one.name: place.duration(f"{one.name}_deadline", getattr(usual, one.name), positive=True)
            for one in fields(usual)
        }
    )


def _gate(place: Place | None) -> InstallGate:
    usual = InstallGate()
    if place is None or not place.only(_GATE):
        return usual
    before = len(place.errors)
    gate = InstallGate(
        max_failure=_or(place.number("max_failure", 0, 1, below=True), usual.max_failure),
        promote_below=_or(place.number("promote_below", 0, 1, below=True), usual.promote_below),
        alpha_abort=_or(place.number("alpha_abort", 0, MAX_ALPHA), usual.alpha_abort),
        alpha_promote=_or(place.number("alpha_promote", 0, MAX_ALPHA), usual.alpha_promote),
    )
    if len(place.errors) > before:
        return usual
    bound = place.at("promote_below")
    if gate.promote_below < gate.max_failure:
        bound.fail(
            f"{gate.promote_below} is less than max_failure ({gate.max_failure}): a release could be too bad to promote and "
            "too good to stop, and the rollout would stand still; write a promote_below of at least max_failure"
        )
    else:
        try:
            clean_needed(gate.promote_below, gate.alpha_promote)
        except ValueError as error:
            bound.fail(f"{error}; raise promote_below or alpha_promote")
    return gate


def _inconclusive(place: Place | None) -> Inconclusive:
    usual = Inconclusive()
    if place is None or not place.only(("after", "do")):
        return usual
    after = place.duration("after", usual.after, positive=True)
    return Inconclusive(after=after, do=place.choice("do", OnFail, usual.do))


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value
