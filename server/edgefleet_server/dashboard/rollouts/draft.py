"""A rollout that is being written in the form of four steps: its fields in an address, and the document that they stand for. Pure.

All of it is in the address, so that each step is a page that can be reloaded, sent to a colleague and used without a script. A field
that is empty is left to the server's default; an error is reported at the place that the spec has for the field.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import yaml

from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.spec.model import MAX_STAGES
from edgefleet_server.rollout.spec.parser import API_VERSION, KIND
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from edgefleet_server.rollout.status.strategy_views import strategy

OWN: Final = "own"
"""The strategy of a rollout with stages of its own."""
EVERY: Final = "all"
MAX_YAML_CHARS: Final = 16_000
MAX_TEXT_CHARS: Final = 4096
STEPS: Final = ("release", "devices", "how", "review")
TEXTS: Final = (
    *(
        "release",
        "who",
        "selector",
        "name",
        "strategy",
        "promote",
        "on_fail",
        "on_unconfirmed",
        "after",
        "do",
        "max_failure",
        "promote_below",
        "liars",
    ),
    *("latency", "errors", "agreement", "drift", "breach", "compare", "control"),
    *("downloads", "per_site", "bandwidth", "cron", "lasts", "tz"),
    *("supersede", "rollback_to", "membership", "strata", "yaml"),
)
_SIZE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(%|total)?")
_HEAD: Final = {"apiVersion": API_VERSION, "kind": KIND}


@dataclass(frozen=True, slots=True)
class StageDraft:
    """One stage as it is written: every field is text, "" where nothing is. size: `5%`, `2` (a stratum) or `10 total`.

    gates: names with commas.
    """

    name: str = ""
    size: str = ""
    min: str = ""
    soak: str = ""
    promote: str = ""
    gates: str = ""
    mode: str = ""
    share: str = ""
    match: str = ""
    approval: str = ""
    timeout: str = ""
    rate: str = ""


STAGE_FIELDS: Final = tuple(one.name for one in fields(StageDraft))


@dataclass(frozen=True, slots=True)
class Draft:
    """What is written so far. texts: of `TEXTS`, only those that are not empty. stages: only with the strategy `own`."""

    texts: Mapping[str, str]
    stages: tuple[StageDraft, ...] = ()

    def __getitem__(self, name: str) -> str:
        """Return a field, "" where nothing is written."""
        return self.texts.get(name, "")

    @property
    def strategy(self) -> str:
        """The chosen strategy."""
        return self["strategy"] or ("canary" if not self.stages else OWN)

    @property
    def is_own(self) -> bool:
        """Whether the stages are written out."""
        return self.strategy == OWN

    def pairs(self, *, but: Iterable[str] = ()) -> list[tuple[str, str]]:
        """Return the fields as an address or hidden fields carry them, without those named; `stages` leaves the stages out."""
        left_out = set(but)
        found = [(name, text) for name, text in self.texts.items() if name not in left_out]
        if "stages" not in left_out:
            found += [(f"stage.{name}", getattr(one, name)) for one in self.stages for name in STAGE_FIELDS]
        return found


def read_draft(pairs: Sequence[tuple[str, str]]) -> Draft:
    """Return what an address says. `edit`: write the stages of a strategy out; `add`: one stage more; `drop`: one less, by number."""
    texts: dict[str, str] = {}
    columns: dict[str, list[str]] = {name: [] for name in STAGE_FIELDS}
    asked = {"edit": "", "add": "", "drop": ""}
    for name, text in pairs:
        column = columns.get(name.removeprefix("stage.")) if name.startswith("stage.") else None
        if column is not None:
            column.append(text.strip()[:MAX_TEXT_CHARS])
        elif name in TEXTS and text.strip():
            texts[name] = text.strip()[: MAX_YAML_CHARS if name == "yaml" else MAX_TEXT_CHARS]
        elif name in asked:
            asked[name] = text
    count = min(MAX_STAGES, max(map(len, columns.values())))
    rows = [{name: "".join(column[place : place + 1]) for name, column in columns.items()} for place in range(count)]
    stages = [StageDraft(**row) for row in rows]
    if asked["edit"] in STRATEGIES:
        texts["strategy"], stages = OWN, list(stages_of(asked["edit"]))
    elif texts.get("strategy") == OWN and not stages:
        stages = list(stages_of("canary"))
    if asked["drop"].isdecimal() and int(asked["drop"]) < len(stages) > 1:
        del stages[int(asked["drop"])]
    if asked["add"] and len(stages) < MAX_STAGES:
        stages.insert(max(0, len(stages) - 1), _between(stages))
    return Draft(texts, tuple(stages) if texts.get("strategy", OWN) == OWN else ())


def stages_of(name: str) -> tuple[StageDraft, ...]:
    """Return the stages of a named strategy, written out. Raises StrategyUnknownError."""
    return tuple(_as_draft(one) for one in strategy(name).spec["spec"]["stages"])


def strategy_of(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return the named strategy that stages (in normal form) are, with any one rule of promotion; "" for stages of one's own."""
    if len({one["promote"] for one in stages}) != 1:
        return ""
    mine = [_without_promote(one) for one in stages]
    for name in STRATEGIES:
        if mine == [_without_promote(one) for one in strategy(name).spec["spec"]["stages"]]:
            return name
    return ""


def document_of(draft: Draft) -> dict[str, Any]:
    """Return the document that a draft stands for. Raises BadSpecError for what cannot be read; `parse_spec` judges the rest."""
    if draft["yaml"]:
        return _parsed(draft["yaml"])
    errors: list[dict[str, str]] = []
    spec = dict(_spec(draft, errors))
    if errors:
        raise BadSpecError(errors=errors)
    metadata = {"metadata": {"name": draft["name"]}} if draft["name"] else {}
    return {**_HEAD, **metadata, "spec": spec}


def yaml_of(document: Mapping[str, Any]) -> str:
    """Return a document as a file would hold it."""
    return str(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100))


# ---- the command that does the same


def command_of(document: Mapping[str, Any], verb: str = "create") -> str:
    """Return the command that starts this rollout (`verb`: or plans it): by flags where they can say all of it, else from a file."""
    flags = _flags(document) if verb == "create" else None
    if flags is None:
        return f"edgectl rollout {verb} -f - <<'EOF'\n{yaml_of(document)}EOF"
    return " ".join(["edgectl rollout create", *flags])


def _flags(document: Mapping[str, Any]) -> list[str] | None:
    spec = document.get("spec")
    if not isinstance(spec, Mapping):
        return None
    rest = dict(spec)
    release, selector = rest.pop("release", None), rest.pop("selector", None)
    if not isinstance(release, str) or not isinstance(selector, str):
        return None
    found = [quoted(release), "--to", quoted(selector)]
    for key, flag in (("strategy", "--strategy"), ("promote", "--promote"), ("on_fail", "--on-fail")):
        value = rest.pop(key, None)
        if value is not None:
            found += [flag, quoted(str(value))]
    name = (document.get("metadata") or {}).get("name")
    return None if rest else [*found, *(["--name", quoted(str(name))] if name else [])]


def quoted(text: str) -> str:
    """Return a text as a POSIX shell takes it for one word."""
    return text if re.fullmatch(r"[A-Za-z0-9@._/:+%-]+", text) else "'" + text.replace("'", "'\\''") + "'"


# ---- the spec


def _spec(draft: Draft, errors: list[dict[str, str]]) -> Iterator[tuple[str, Any]]:
    if draft["release"]:
        yield "release", draft["release"]
    if draft["who"] == EVERY:
        yield "selector", ""
    elif draft["selector"]:
        yield "selector", draft["selector"]
    if draft.is_own:
        stages = [_stage(one, index, errors) for index, one in enumerate(draft.stages)]
        yield "stages", stages
    else:
        yield "strategy", draft.strategy
    for name in ("promote", "on_fail", "on_unconfirmed", "supersede", "rollback_to", "membership"):
        if draft[name]:
            yield name, draft[name]
    if draft["strata"]:
        yield "strata", [one.strip() for one in draft["strata"].split(",") if one.strip()]
    gates = dict(_gates(draft, errors))
    if gates:
        yield "gates", gates
    silence = {name: draft[name] for name in ("after", "do") if draft[name]}
    if silence:
        yield "on_inconclusive", silence
    limits = dict(_limits(draft, errors))
    if limits:
        yield "limits", limits
    if draft["cron"] or draft["lasts"]:
        window = {"cron": draft["cron"], "duration": draft["lasts"], "tz": draft["tz"]}
        yield "windows", [{name: text for name, text in window.items() if text}]


def _gates(draft: Draft, errors: list[dict[str, str]]) -> Iterator[tuple[str, Any]]:
    install = {}
    for name in ("max_failure", "promote_below", "liars"):
        if draft[name]:
            install[name] = _share(draft[name], f"$.spec.gates.install.{name}", errors)
    if install:
        yield "install", install
    metrics = list(_metrics(draft, errors))
    if metrics:
        more = {name: draft[field] for name, field in (("control", "control"), ("after", "compare")) if draft[field]}
        yield "quality", {**more, "metrics": metrics}


def _metrics(draft: Draft, errors: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    breach = {"on_breach": draft["breach"]} if draft["breach"] else {}
    for field, name, bound in (
        ("latency", "latency_p95_ms", "non_inferior_rel"),
        ("errors", "inference_error_rate", "non_inferior_abs"),
        ("agreement", "shadow_agreement", "min"),
    ):
        if draft[field]:
            yield {"name": name, bound: _share(draft[field], f"$.spec.gates.quality.{name}", errors), **breach}
    if draft["drift"]:
        yield {"name": "drift"}


def _limits(draft: Draft, errors: list[dict[str, str]]) -> Iterator[tuple[str, Any]]:
    for field, name in (("downloads", "concurrent_downloads"), ("per_site", "per_site")):
        if draft[field]:
            yield name, _whole(draft[field], f"$.spec.limits.{name}", errors)
    if draft["bandwidth"]:
        yield "bandwidth", draft["bandwidth"]


def _stage(one: StageDraft, index: int, errors: list[dict[str, str]]) -> dict[str, Any]:
    place = f"$.spec.stages[{index}]"
    made: dict[str, Any] = {"name": one.name} if one.name else {}
    made["size"] = _size(one, f"{place}.size", errors)
    made |= {name: getattr(one, name) for name in ("soak", "promote", "match") if getattr(one, name)}
    if one.gates:
        made["gates"] = [name.strip() for name in one.gates.split(",")]
    if one.mode not in ("", "active"):
        made["mode"] = one.mode
    if one.share:
        made["share_pct"] = _whole(one.share, f"{place}.share_pct", errors)
    if one.approval:
        made["approval"] = {"role": one.approval, **({"timeout": one.timeout} if one.timeout else {})}
    if one.rate:
        made["rate"] = {"start": one.rate if "/" in one.rate else f"{one.rate}/min"}
    return made


def _size(one: StageDraft, place: str, errors: list[dict[str, str]]) -> dict[str, Any]:
    found = _SIZE.fullmatch(one.size)
    if found is None:
        problem = f"got {one.size[:40]!r}" if one.size else "it is empty"
        errors.append(
            {"path": place, "message": f"enter 5% (of a stratum), 2 (devices in each) or 10 total: {problem}"}
        )
        return {}
    number = float(found[1])
    plain: float | int = int(number) if number.is_integer() else number
    size: dict[str, Any] = {"percent": plain} if found[2] == "%" else {"count": plain}
    if found[2] == "total":
        size["count_total"] = True
    if one.min:
        size["min"] = _whole(one.min, f"{place}.min", errors)
    return size


def _whole(text: str, place: str, errors: list[dict[str, str]]) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    errors.append({"path": place, "message": f"enter a whole number: got {text[:40]!r}"})
    return 0


def _share(text: str, place: str, errors: list[dict[str, str]]) -> float:
    """Return a percentage as a share of 1."""
    try:
        return round(float(text.rstrip("% ")) / 100, 9)
    except ValueError:
        errors.append({"path": place, "message": f"enter a percentage, for example 10: got {text[:40]!r}"})
        return 0.0


def _between(stages: Sequence[StageDraft]) -> StageDraft:
    """Return a stage to put before the last one: as large as the one before it, so that stages only grow."""
    before = stages[-2] if len(stages) > 1 else StageDraft(size="5%", min="2", soak="10m")
    names = {one.name for one in stages}
    name = next(name for place in range(1, MAX_STAGES + 2) if (name := f"stage-{place}") not in names)
    return replace(before, name=name, approval="", timeout="")


def _as_draft(stage: Mapping[str, Any]) -> StageDraft:
    size, asked = stage["size"], stage["approval"]
    number = f"{size['percent']:.15g}%" if "percent" in size else f"{size['count']}"
    return StageDraft(
        name=stage["name"],
        size=f"{number} total" if size.get("count_total") else number,
        min=str(size.get("min") or ""),
        soak=stage["soak"],
        promote="",
        gates=",".join(stage.get("gates", ())),
        mode=stage["mode"],
        share=str(stage.get("share_pct") or ""),
        match=stage["match"],
        approval=asked["role"] if isinstance(asked, Mapping) else "",
        timeout=asked["timeout"] if isinstance(asked, Mapping) else "",
        rate=(stage["rate"] or {}).get("start", ""),
    )


def _without_promote(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stage.items() if key != "promote"}


# ---- a whole file


def _parsed(text: str) -> dict[str, Any]:
    """Return the document that YAML or JSON text holds. Raises BadSpecError."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise BadSpecError(
                errors=[{"path": "$", "message": "aliases (*name) are not supported here; write it out"}]
            )
        found = json.loads(json.dumps(yaml.safe_load(text), allow_nan=False, default=str))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BadSpecError(
            errors=[{"path": "$", "message": f"this is not valid YAML: {' '.join(str(error).split())}"}]
        ) from error
    if not isinstance(found, dict):
        raise BadSpecError(errors=[{"path": "$", "message": f"expected fields and values, got {type(found).__name__}"}])
    return found if "spec" in found or "kind" in found else {**_HEAD, "spec": found}
