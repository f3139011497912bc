"""Reads a rollout's spec, and writes it back in normal form. Pure.

- Every mistake is told at once, each with its place (`$.stages[1].size.percent`) and what was expected there.
- Unknown fields are refused: a misspelt bound must not become a default. A field of a later version is unknown, too.
- The normal form has every field written out, but for the defaults that depend on others: parsing it gives the same spec.
Reference: docs/reference/rollout-spec.md; for editors: docs/reference/rollout-spec.schema.json, made of these models.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from pydantic import Field

from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.fields import (
    SPOILT,
    Advice,
    ExpectedError,
    Item,
    Items,
    Loc,
    Maybe,
    Mistake,
    Part,
    Read,
    duration,
    given,
    in_words,
    named,
)
from edgefleet_server.rollout.spec.gates import GatesIn, check_quality
from edgefleet_server.rollout.spec.mistakes import read, told
from edgefleet_server.rollout.spec.model import (
    NO_PACING,
    Inconclusive,
    InstallGate,
    Membership,
    OnFail,
    Pacing,
    Promote,
    Size,
    Spec,
    SpecShape,
    StageSpec,
    Supersede,
    duration_text,
)
from edgefleet_server.rollout.spec.quality import dump_judges, dump_quality, judges_text
from edgefleet_server.rollout.spec.rate_limits import (
    MAX_WINDOWS,
    DeviceTermsIn,
    LimitsIn,
    OfflineIn,
    WindowIn,
    dump_pacing,
    dump_rate,
    dump_retries,
    dump_start_within,
)
from edgefleet_server.rollout.spec.stage_fields import MAX_STAGES, RolloutStageIn, check_stages, size_text
from edgefleet_server.rollout.spec.strategies import STRATEGIES, with_promote
from edgefleet_server.rollout.spec.targeting import (
    Release,
    Selector,
    Strata,
    WayBack,
    dump_spec_shape,
    dump_stage_shape,
    shape_text,
    way_back_flaw,
)
from edgefleet_server.rollout.spec.webhooks import dump_gates

API_VERSION: Final = "edgefleet/v1"
KIND: Final = "Rollout"
DEFAULT_STAGES: Final = STRATEGIES["canary"].stages

_DOCUMENT: Final = ("apiVersion", "kind", "metadata", "spec")
_TITLE: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_ONE_STRATEGY: Final = Read(lambda value: value, {"enum": [*STRATEGIES]})


_INSTALL: Final = InstallGate()
_NO_VERDICT: Final = Inconclusive()


class InconclusiveIn(Part):
    """What to do when a stage has been open for `after` without a verdict."""

    after: Annotated[timedelta, duration(positive=True)] = _NO_VERDICT.after
    do: OnFail = _NO_VERDICT.do

    def inconclusive(self) -> Inconclusive:
        """Return the rule."""
        return Inconclusive(self.after, self.do)


class RolloutSpecIn(Part):
    """What goes out, to which devices, in which stages and under which bounds. Only `release` and `selector` must be given."""

    release: Annotated[Release, Advice("name the release as model@version")]
    # Not every device by default: who forgets the selector must not update the whole fleet.
    selector: Annotated[Selector, Advice("say which devices, for example 'site=lab'; '' means every device")]
    stages: Maybe[Annotated[list[Item[RolloutStageIn]], Items("stages", 1, MAX_STAGES)]] = None
    strategy: Annotated[Any, _ONE_STRATEGY] = None
    device: DeviceTermsIn = DeviceTermsIn()
    gates: GatesIn = GatesIn()
    promote: Promote = Promote.AUTO
    on_fail: OnFail = OnFail.ROLLBACK
    on_inconclusive: Maybe[InconclusiveIn] = None
    limits: Maybe[LimitsIn] = None
    windows: Maybe[Annotated[list[Item[WindowIn]], Items("windows", most=MAX_WINDOWS)]] = None
    offline: OfflineIn = OfflineIn()
    membership: Membership = Membership.DYNAMIC
    supersede: Supersede = Supersede.REJECT
    rollback_to: WayBack = SpecShape().rollback_to
    strata: Strata = SpecShape().strata

    def spec(self, name: str) -> Spec:
        """Return the spec. name: of the rollout."""
        quality, device, terms = self.gates.quality, self.device.deadlines(), self.device
        return Spec(
            release=self.release,
            selector=self.selector,
            stages=self._stages(),
            device=device,
            gate=_INSTALL if self.gates.install is None else self.gates.install.gate(),
            on_fail=self.on_fail,
            on_inconclusive=_NO_VERDICT if self.on_inconclusive is None else self.on_inconclusive.inconclusive(),
            pacing=Pacing(
                limits=NO_PACING.limits if self.limits is None else self.limits.limits(),
                windows=tuple(one.window() for one in self.windows or ()),
                retries=None if terms.retries is None else terms.retries.retries(),
                offline=self.offline.offline(device.ack),
                start_within=terms.start_within,
            ),
            name=name,
            quality=None if quality is None else quality.gate(),
            shape=SpecShape(self.membership, self.supersede, self.rollback_to, self.strata),
        )

    def _stages(self) -> tuple[StageSpec, ...]:
        """Return the stages: those written, else those of the strategy, else those of canary."""
        if self.stages is None:
            named = DEFAULT_STAGES if self.strategy is None else STRATEGIES[self.strategy].stages
            return with_promote(named, self.promote)
        last = len(self.stages) - 1
        return tuple(one.stage(index, self.promote, is_last=index == last) for index, one in enumerate(self.stages))


def _must_be(expected: str) -> Read:
    def read(value: Any) -> Any:
        if value != expected:
            raise ExpectedError(repr(expected))
        return value

    return Read(read, {"const": expected})


class RolloutMetadataIn(Part):
    """The rollout's name."""

    name: Maybe[Annotated[str, named(_TITLE)]] = None


class RolloutDocumentIn(Part):
    """A spec with its name and version around it, as a file holds it."""

    api_version: Annotated[
        str, Field(alias="apiVersion"), _must_be(API_VERSION), Advice(f"write apiVersion: {API_VERSION}")
    ]
    kind: Annotated[str, _must_be(KIND), Advice(f"write kind: {KIND}")]
    metadata: RolloutMetadataIn = RolloutMetadataIn()
    spec: Annotated[RolloutSpecIn, Advice("put the rollout's fields there")]


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
    if not isinstance(document, dict) or not any(key in document for key in _DOCUMENT):
        spec, mistakes = read(RolloutSpecIn, document)
        return _checked(RolloutSpecIn, spec, "", (), mistakes)
    whole, mistakes = read(RolloutDocumentIn, document)
    assert whole is not None, "it is an object"
    name = "" if whole.metadata is SPOILT else given(whole.metadata.name, "")
    spec = None if whole.spec is SPOILT else whole.spec
    return _checked(RolloutDocumentIn, spec, name, ("spec",), mistakes)


def _checked(kind: type[Part], spec: RolloutSpecIn | None, name: str, at: Loc, mistakes: list[Mistake]) -> Spec:
    """Return what a spec means, once it is looked at as a whole. mistakes: those in its fields, kind: of the document."""
    if spec is not None:
        mistakes += _check(spec, at)
        if not mistakes:
            return spec.spec(name)
    raise BadSpecError(errors=told(kind, mistakes))


def _check(spec: RolloutSpecIn, at: Loc) -> Iterator[Mistake]:
    """Yield what is wrong with a spec whose fields can be read one by one."""
    quality = None if spec.gates is SPOILT else spec.gates.quality
    if quality is not None and quality is not SPOILT:
        yield from check_quality(quality, (*at, "gates", "quality"))
    if spec.stages is not None and spec.stages is not SPOILT:
        yield from check_stages(spec.stages, (*at, "stages"), has_quality=quality is not None)
    if spec.stages is not None and "strategy" in spec.model_fields_set:
        yield (*at, "strategy"), "a strategy stands for its stages; remove one of strategy and stages"
    elif "strategy" in spec.model_fields_set and not (isinstance(spec.strategy, str) and spec.strategy in STRATEGIES):
        yield (*at, "strategy"), in_words(ExpectedError(f"one of {', '.join(STRATEGIES)}"), spec.strategy)
    if spec.release is not SPOILT and (flaw := way_back_flaw(given(spec.rollback_to, "previous"), spec.release)):
        yield (*at, "rollback_to"), flaw


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
            "install": asdict(spec.gate),
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
