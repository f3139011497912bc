"""Rules of the conversion feature: when two conversions are the same, and what is believed of a report. Pure.

* Two jobs are the same when source, data, options, profile and everything that converts are. Name and version do not count: they
  stand in a bundle's manifest only, so that a bundle is packed again and not made again.
* A metric that names code is covered by no digest, so such a job is never the same as another; nor is one of a sealed model, whose
  bundle is not opened to be packed again.
* A report comes from the child. It is JSON of bounded size with one entry a profile; paths of this machine are taken out.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Final

from edgefleet_protocol.digest import Sha256, folder_sha256, parse_sha256, sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.conversion.errors import BadAnswerError
from edgefleet_server.conversion.model import QueuePlace, SandboxLimits, Waiting, Work
from edgefleet_server.registry.model import JobSpec

OF_THE_MACHINE: Final = frozenset({"convert.internal", "convert.tool_missing", "convert.killed"})
"""Refusals that say nothing about the model: the same publication may go well later, so it is tried again when asked."""
KILLED: Final = frozenset({"convert.killed", "conversion.child_killed"})
"""The system ended the conversion, or a step of it: it is tried again by itself."""
_OF_THE_MOMENT: Final = frozenset(
    {"convert.crashed", "convert.timed_out", "convert.out_of_memory", "convert.tool_failed"}
)
"""Refusals that a busy machine may cause: final for this release, and no reason to refuse another one unseen."""


MAX_DEPTH: Final = 64
MAX_ROW_BYTES: Final = 256 * 1024
"""Of one bundle's report: a thousand outputs fit."""
_ROW_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "bytes": int, "fp32_bytes": int, "ratio": (int, float), "metric": dict, "parity": dict, "latency_ms": dict,
    "peak_rss_bytes": int, "runtimes": list, "verdict": str, "work": dict,
    "latency_shapes": dict, "search_ended": str,
}  # fmt: skip
"""What the server shows of a bundle's report (`BundleOut`)."""


SHARE_SPAN: Final = timedelta(hours=1)
"""How long back the work for a model counts against its next job."""
USE_WEIGHT: Final = 2
"""More than 1: else a model that keeps a worker busy would gain by waiting what it loses by its use."""
MOST_FORESEEN: Final = 300
"""Waiting jobs whose order is foreseen; those behind them have no place yet."""
_UNKNOWN_S: Final = 60.0
"""What a job is taken to last for the order of others while nothing is known; no time is said then."""


@dataclass(slots=True)
class _Use:
    """Seconds of workers that models and releases used lately."""

    of_model: Counter[str] = field(default_factory=Counter)
    of_release: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, one: Work, now: datetime) -> None:
        used_s = max(0, int((min(one.ended or now, now) - one.started).total_seconds()))
        self.of_model[one.model] += used_s
        self.of_release[one.model, one.version] += used_s


def next_release(waiting: Iterable[Waiting], work: Iterable[Work], now: datetime) -> Waiting | None:
    """Return the release whose turn it is: the one that has waited longest, where a second of recent work for its model, or for
    the release itself, counts as USE_WEIGHT seconds of waiting. Among equals the oldest.

    So a release waits for the job that runs, and not for all jobs of a model that keeps the workers busy; nor do new names pass it for
    longer than its model's own use outweighs.
    """
    use = _Use()
    for one in work:
        use.add(one, now)

    def rank(one: Waiting) -> tuple[float, int]:
        used_s = use.of_model[one.model] + use.of_release[one.model, one.version]
        return USE_WEIGHT * used_s - (now - one.since).total_seconds(), one.first

    return min(waiting, key=rank, default=None)


def queue_places(
    waiting: Sequence[Waiting], work: Sequence[Work], wanted: AbstractSet[int], now: datetime
) -> dict[int, QueuePlace]:
    """Return where jobs stand in the queue: `next_release` asked again and again, as workers will.

    waiting: one for each job (first: its id), at most MOST_FORESEEN are gone through. work: as of `next_release`; the jobs in it that
    run are all that workers can do at once. A job takes as long as the median of those that ended, of its model where there are any.
    Where none has ended there are places and no times.
    """
    usual_s = _usual_s(work)
    pace_s = usual_s.get("", _UNKNOWN_S)
    done = [one for one in work if one.ended is not None]
    running = [_foreseen(one, usual_s.get(one.model, pace_s), now) for one in work if one.ended is None]
    left = sorted(waiting, key=lambda one: one.first)[:MOST_FORESEEN]
    places: dict[int, QueuePlace] = {}
    at = now
    for place in range(1, len(left) + 1):
        if running:  # jobs wait, so each worker has one
            soonest = min(running, key=lambda one: one.ended or at)
            running.remove(soonest)
            done.append(soonest)
            at = max(at, soonest.ended or at)
        releases = {(one.model, one.version): one for one in reversed(left)}
        turn = next_release(releases.values(), [*done, *running], at)
        if turn is None:
            break
        left.remove(turn)
        running.append(Work(turn.model, turn.version, at, at + timedelta(seconds=usual_s.get(turn.model, pace_s))))
        if turn.first in wanted:
            places[turn.first] = QueuePlace(place, (at - now).total_seconds() if usual_s else None)
            if len(places) == len(wanted):
                break
    return places


def _usual_s(work: Sequence[Work]) -> dict[str, float]:
    """Return how long a job usually takes, in seconds, by model; "" = of any."""
    taken: dict[str, list[float]] = {}
    for one in work:
        if one.ended is not None:
            for model in (one.model, ""):
                taken.setdefault(model, []).append((one.ended - one.started).total_seconds())
    return {model: median(values) for model, values in taken.items()}


def _foreseen(one: Work, usual_s: float, now: datetime) -> Work:
    """Return a running job with its likely end: one that takes longer than usual is expected to end at once."""
    return replace(one, ended=max(now, one.started + timedelta(seconds=usual_s)))


def content_key(spec: JobSpec, tools: object, limits: SandboxLimits) -> Sha256 | None:
    """Return the digest of all that decides a job's result; None when it cannot be known. tools: what the child said of itself.

    limits: with more memory or time a candidate may come through that did not before, so what was made under others is not known.
    """
    if ":" in str(spec.options.get("metric") or "") or spec.options.get("seal"):
        return None
    try:
        known = parse_sha256(str(tools))
    except EdgefleetError:
        return None
    document = {
        "kind": spec.kind,
        "source": folder_sha256((file.path if spec.kind != "file" else "", file.sha256) for file in spec.files),
        "suffix": spec.files[0].path.rpartition(".")[2].lower() if spec.kind == "file" else "",
        "data": dict(spec.data),
        "options": dict(spec.options),
        "profile": dict(spec.profile_facts),
        "tools": known,
        "limits": asdict(limits),
    }
    return sha256_hex(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def may_be_known(state: str, code: str) -> bool:
    """Tell whether a job's end also holds for another job of the same content."""
    return state == "done" or (state == "refused" and code not in OF_THE_MACHINE | _OF_THE_MOMENT)


def trusted_report(document: Any, profile: str) -> dict[str, Any] | None:
    """Return the report of a job without paths of this machine; None when it is not the report of `profile` alone."""
    profiles = document.get("profiles") if isinstance(document, dict) else None
    if not isinstance(profiles, list) or len(profiles) != 1 or not isinstance(profiles[0], dict):
        return None
    row = profiles[0]
    if row.get("profile") != profile or not isinstance(document.get("data", {}), dict) or not _is_shallow(document):
        return None
    if isinstance(row.get("bundle"), dict):
        row = {**row, "bundle": {**row["bundle"], "path": ""}}
    own = {name: value for name, value in document.items() if name != "kept_from"}  # that is the server's to say
    return {**own, "profiles": [row]}


def _is_shallow(document: object) -> bool:
    """Return whether no value lies below more than MAX_DEPTH lists and mappings: every reader must be able to follow."""
    layer = [document]
    for _ in range(MAX_DEPTH):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in layer if isinstance(one, dict | list)]
        layer = [value for values in inner for value in values]
    return not any(isinstance(value, dict | list) for value in layer)


def check_row(row: Mapping[str, Any]) -> None:
    """Refuse the report of a bundle that could not be stored, shown or read again. Raises BadAnswerError.

    It stands in the database and in every answer that shows the release, so one that breaks them would break them for all.
    """
    for name, kinds in _ROW_KINDS.items():
        value = row.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise BadAnswerError(f"the report of the converter's bundle has a {name} of another kind than it should")
    if not all(isinstance(one, dict) for one in row.get("runtimes") or ()):
        raise BadAnswerError("the report of the converter's bundle has runtimes that are no objects")
    try:
        data = json.dumps(dict(row), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadAnswerError("the report of the converter's bundle has values that no JSON holds") from error
    if len(data) > MAX_ROW_BYTES or not _is_shallow(row):
        raise BadAnswerError(f"the report of the converter's bundle is larger than {MAX_ROW_BYTES} bytes or too deep")


def renamed_report(
    document: Mapping[str, Any], ref: ReleaseRef, bundle: Mapping[str, Any] | None, kept_from: ReleaseRef
) -> dict[str, Any]:
    """Return the report of the same conversion under another name. bundle: the fields in which its row differs."""
    named = {"model": ref.model, "version": ref.version}
    (row,) = document["profiles"]
    if bundle is not None and isinstance(row.get("bundle"), dict):
        row = {**row, "bundle": {**row["bundle"], **bundle, **named, "path": ""}}
    origin = document.get("kept_from") or str(kept_from)
    return {**document, **named, "profiles": [row], "kept_from": origin}


def merged_report(ref: ReleaseRef, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of a release out of those of its profiles, of which there is at least one.

    It bears the release's own name, whatever a child wrote; `kept_from` only when it holds for every profile.
    """
    profiles = [row for document in documents for row in document["profiles"]]
    data: Mapping[str, Any] = next((document["data"] for document in documents if document.get("data")), {})
    importance: Mapping[str, Any] = next((one["importance"] for one in documents if one.get("importance")), {})
    comparison: Mapping[str, Any] = next((one["comparison"] for one in documents if one.get("comparison")), {})
    named = {"model": ref.model, "version": ref.version}
    once = {"importance": importance, "comparison": comparison}
    merged = {**documents[0], **named, "profiles": profiles, "data": dict(data), "key": "", **once}
    if len({document.get("kept_from", "") for document in documents}) > 1:
        merged.pop("kept_from", None)
    return merged
