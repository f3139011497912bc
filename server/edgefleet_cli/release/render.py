"""How a release is shown: one row a bundle, one a refusal, the same after `publish` and in `release show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK
from edgefleet_cli.core.structs import Struct, field, replace
from edgefleet_cli.render.format import counted, metric, milliseconds, moment, predicted, ratio, share, size, text
from edgefleet_cli.render.output import Column, Output, Sheet, visible

RUNNING_STATES = frozenset({"queued", "running"})


class Failure(NamedTuple):
    """Why a profile has no bundle, and what to do. code: "" where none is known."""

    profile: str
    code: str
    reason: str
    next: str


class Score(Struct, frozen=True):
    """What a candidate was judged by. value: None where it was not."""

    name: str = ""
    value: float | None = None
    drop: float | None = None
    baseline: float | None = None
    n: int | None = None
    is_measured: bool = True


class Candidate(Struct, frozen=True):
    """One candidate of a conversion's report."""

    id: str = ""
    precision: str | None = None
    bytes: float | None = None
    metric: Score | None = None
    latency_ms: dict[str, float | None] | None = None
    peak_rss_bytes: float | None = None
    cold_start_ms: float | None = None
    verdict: str = ""
    short: str = ""
    pareto: bool | None = None


class ProfileReport(Struct, frozen=True):
    """What was tried for one profile. fp32: the source's figures."""

    profile: str = ""
    fp32: Candidate | None = None
    candidates: tuple[Candidate, ...] = ()


class JudgedOn(Struct, frozen=True):
    """The data of a report. hold_out_rows: which samples of the evaluation data its figures are of; () = all, or others."""

    judged_on: str | None = None
    hold_out_rows: tuple[int, ...] = ()


class Report(Struct, frozen=True):
    """What is read here of the `report.json` of a conversion. importance, comparison: as `edgefleet_terms` reads them."""

    profiles: tuple[ProfileReport, ...] = ()
    data: JudgedOn = JudgedOn()
    importance: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)


def _candidate_verdict(candidate: Candidate) -> str:
    why = f": {candidate.short}" if candidate.short else ""
    return f"{text(candidate.verdict)}{why}{' *' if candidate.pareto else ''}"


def precision_text(bundle: api.bundle.Bundle | api.bundle.BundleInside) -> str:
    """Return a bundle's precision, and whether its model is sealed."""
    return f"{text(bundle.precision)}, sealed" if bundle.is_sealed else text(bundle.precision)


BUNDLES: Sheet[api.bundle.Bundle] = Sheet(
    "bundles",
    [
        Column("profile", lambda b: text(b.profile), keep=True),
        Column("runtime", lambda b: text(b.runtime), spare=3),
        Column("precision", precision_text),
        Column("bytes", lambda b: size(b.bytes), right=True, keep=True),
        Column("ratio", lambda b: ratio(b.ratio), right=True, spare=1),
        Column("metric", lambda b: metric(b.metric), keep=True),
        Column("host p50", lambda b: milliseconds(_latency(b.latency_ms, "p50")), right=True, spare=4),
        Column("with input", lambda b: _shapes(b.latency_shapes), spare=5),
        Column("predicted p50", lambda b: predicted(b.predicted, "latency_p50_ms", milliseconds), right=True, spare=2),
        Column("predicted memory", lambda b: predicted(b.predicted, "memory_bytes", size), wide=True, right=True),
        Column("host p95", lambda b: milliseconds(_latency(b.latency_ms, "p95")), wide=True, right=True),
        Column("bundle", lambda b: size(b.bundle_bytes or None), wide=True, right=True),
        Column("peak memory", lambda b: size(b.peak_rss_bytes), wide=True, right=True),
        Column("verdict", lambda b: text(b.verdict)),
        Column("sha256", lambda b: text(b.sha256)[:12], wide=True, keep=True),
    ],
    lambda b: f"{b.model}/{b.version}/{b.profile}",
)

CANDIDATES: Sheet[Candidate] = Sheet(
    "candidates",
    [
        Column("candidate", lambda c: text(c.id), keep=True),
        Column("precision", lambda c: text(c.precision), spare=2),
        Column("bytes", lambda c: size(c.bytes), right=True),
        Column("score", lambda c: _score(c.metric.value if c.metric and c.metric.is_measured else None), right=True),
        Column(
            "loss",
            lambda c: _score(c.metric.drop if c.metric and c.metric.is_measured else None),
            right=True,
            spare=1,
        ),
        Column("p50/p95 ms", lambda c: _pair(_latency(c.latency_ms, "p50"), _latency(c.latency_ms, "p95")), right=True),
        Column("memory", lambda c: size(c.peak_rss_bytes), right=True, spare=3),
        Column("start", lambda c: milliseconds(c.cold_start_ms), right=True, spare=4),
        Column("verdict", _candidate_verdict, keep=True),
    ],
    lambda c: text(c.id),
)

PERFORMANCE: Sheet[api.cost.Performance] = Sheet(
    "bundles of this release",
    [
        Column("profile", lambda p: text(p.profile), keep=True),
        Column("predicted p50", lambda p: _foreseen(p, "latency_p50_ms", milliseconds), right=True),
        Column("observed p50", lambda p: milliseconds(p.observed and p.observed.latency_p50_ms), right=True),
        Column("off by", lambda p: _off(p, "latency_p50_ms"), right=True),
        Column("predicted p95", lambda p: _foreseen(p, "latency_p95_ms", milliseconds), wide=True, right=True),
        Column("observed p95", lambda p: milliseconds(p.observed and p.observed.latency_p95_ms), wide=True, right=True),
        Column("predicted memory", lambda p: _foreseen(p, "memory_bytes", size), right=True),
        Column("observed memory", lambda p: size(p.observed and p.observed.memory_bytes), right=True),
        Column("devices", lambda p: text(p.observed and p.observed.devices), right=True),
    ],
    lambda p: text(p.profile),
)

EXAMPLES: Sheet[api.cost.CostExample] = Sheet(
    "models that devices reported on",
    [
        Column("release", lambda e: text(e.release), keep=True),
        Column("observed p50", lambda e: milliseconds(e.observed.latency_p50_ms), right=True),
        Column("observed memory", lambda e: size(e.observed.memory_bytes), right=True),
        Column("devices", lambda e: text(e.observed.devices), right=True),
        Column("off when left out", lambda e: _signed(e.left_out.get("latency_p50_ms")), right=True),
    ],
    lambda e: text(e.release),
)


def release_state(release: api.release.Release) -> str:
    """Return how a release stands, for eyes: a withdrawn one with its reason."""
    return text(release.state) if release.withdrawn is None else f"withdrawn: {release.withdrawn.reason}"


RELEASES: Sheet[api.release.Release] = Sheet(
    "releases",
    [
        Column("release", lambda r: text(r.ref), keep=True),
        Column("state", release_state),
        Column("bundles", lambda r: ",".join(b.profile for b in r.bundles) or "-"),
        Column("refused", lambda r: ",".join(x.profile for x in r.refused) or "-"),
        Column("created", lambda r: moment(r.created_at)),
        Column("attempt", lambda r: text(r.attempt), wide=True, right=True),
        Column("by", lambda r: text(r.created_by), wide=True),
        Column("source", lambda r: text(r.source_sha256)[:12], wide=True),
    ],
    lambda r: text(r.ref),
)


def is_over(release: api.release.Release) -> bool:
    """Tell whether no conversion of this release is waiting or running."""
    return release.state != "converting"


def exit_code(release: api.release.Release) -> int:
    """Return 0 when every profile got its bundle, signed or waiting for the team of the model, 1 when some or all were refused."""
    is_good = release.state == "ready" or (release.state == "unsigned" and not release.refused)
    return EXIT_OK if is_good else EXIT_FAILED


def show_release(out: Output, release: api.release.Release) -> None:
    """Write a release for eyes: state, bundles and refusals as one table, then why each refusal and what to do."""
    out.fields(
        [
            ("release", text(release.ref)),
            ("state", text(release.state)),
            *_withdrawal(release),
            ("profiles", text(release.profiles_reason)),
            ("created", f"{moment(release.created_at)} by {text(release.created_by)}"),
            *((key.replace("_", " "), text(value)) for key, value in lineage_fields(release)),
        ]
    )
    show_result(out, release)
    show_attempts(out, release)


def _withdrawal(release: api.release.Release) -> list[tuple[str, str]]:
    gone = release.withdrawn
    return [] if gone is None else [("withdrawn", f"{visible(gone.reason)} ({moment(gone.at)} by {text(gone.by)})")]


def show_attempts(out: Output, release: api.release.Release) -> None:
    """Write the publications that came before under the same version and signed nothing."""
    if release.attempts:
        out.line("earlier attempts, which signed nothing:")
    for one in release.attempts:
        sent = ", ".join(file.path for file in one.files[:3]) + (", …" if len(one.files) > 3 else "")
        out.line(visible(f"  {one.number}: {one.state}, {sent}, {moment(one.created_at)} by {text(one.created_by)}"))
        for why in one.refused:
            out.line(visible(f"     {why.profile}: {why.reason} ({why.code})"))
    if release.attempts:
        out.note(f"the report of one: `edgectl release report {release.ref} --attempt {release.attempts[0].number}`")


def lineage_fields(release: api.release.Release) -> list[tuple[str, str]]:
    """Return where a release came from: the address first, the rest by name."""
    lineage = release.lineage
    names = {"uri": "source", "version": "source version"}
    return [(names.get(key, key), lineage[key]) for key in sorted(lineage, key=lambda key: (key != "uri", key))]


NOT_MEASURED = (
    "accuracy was not measured: the test input was random, which shows that the model runs, not that its answers are right; "
    "auto then offers float32 and float16 only; measure it on your own data with --calibration, and --eval with labels"
)


def is_unproven(bundles: Sequence[api.bundle.Bundle]) -> bool:
    """Tell whether the accuracy of a bundle was not measured: nobody gave data to judge it by."""
    return any((bundle.metric or {}).get("is_measured") is False for bundle in bundles)


def show_judged(out: Output, bundles: Sequence[api.bundle.Bundle]) -> None:
    """Write what each output was found to be, by which metric it was judged and what that came to; profiles alike once."""
    from edgefleet_profiles.metric_words import judged_as  # reads YAML, which most commands need not load

    found: dict[tuple[str, ...], list[str]] = {}
    for bundle in bundles:
        lines = tuple(judged_as(bundle.metric))
        if lines:
            found.setdefault(lines, []).append(bundle.profile)
    for lines, profiles in found.items():
        out.line(visible(f"judged by output, {', '.join(profiles)}:"))
        for line in lines:
            out.line(visible(f"  {line}"))


def _shapes(shapes: Mapping[str, Sequence[int]] | None) -> str:
    """Return the shapes that the inputs had in the runs that were timed, as `1x3x640x640`."""
    return ", ".join("x".join(map(str, shape)) for shape in (shapes or {}).values()) or "-"


def note_ended(out: Output, bundles: Sequence[api.bundle.Bundle]) -> None:
    """Write of which bundles the search did not try everything, and what to do."""
    for bundle in bundles:
        if bundle.search_ended:
            out.note(f"{bundle.profile}: {bundle.search_ended}; the best found is offered, --budget allows more time")


def show_result(out: Output, release: api.release.Release) -> None:
    """Write the result table of a release."""
    rows = [*release.bundles, *_refused_rows(release)]
    if rows:
        out.table(rows, BUNDLES.columns)
    if is_unproven(release.bundles):
        out.note(NOT_MEASURED)
    show_judged(out, release.bundles)
    note_ended(out, release.bundles)
    refused: dict[Failure, list[str]] = {}
    for failure in failures(release):
        refused.setdefault(failure._replace(profile=""), []).append(failure.profile)
    for failure, profiles in refused.items():
        code = f" ({failure.code})" if failure.code else ""
        out.line(visible(f"{', '.join(profiles)}: {failure.reason}{code}"))
        if failure.next:
            out.line(visible(f"  next: {failure.next}"))
    for job in release.jobs:
        if job.state in RUNNING_STATES:
            out.line(f"{job.profile}: {job.state} {text(job.stage)}")


def show_candidates(out: Output, report: Report) -> None:
    """Write what `report.json` says of the candidates that were tried, one table a profile, the source's figures first."""
    is_starred = False
    for profile in report.profiles:
        rows = [row for row in profile.candidates if row.verdict != "not_tried"]
        if not rows:
            continue
        judged = next((row.metric for row in rows if row.metric), Score())
        own = Score(value=judged.baseline, is_measured=judged.is_measured)
        source = replace(profile.fp32 or Candidate(id="source"), verdict="source", metric=own)
        by = f": {judged.name} on {judged.n} samples" if judged.name and judged.is_measured else ""
        out.line(visible(f"{text(profile.profile)}{by}"))
        out.table([source, *rows], CANDIDATES.columns)
        out.line("")
        is_starred = is_starred or any(row.pareto for row in rows)
    if is_starred:
        out.note("* no other candidate is better in accuracy, size and time")


def failures(release: api.release.Release) -> list[Failure]:
    """Return the refusals, and the jobs that failed without one."""
    found = [Failure(one.profile, one.code, one.reason, one.next) for one in release.refused]
    shown = {one.profile for one in found}
    found.extend(
        Failure(job.profile or "all profiles", "conversion.failed", job.message or "the conversion failed", "")
        for job in release.jobs
        if job.state in {"failed", "refused", "cancelled"} and job.profile not in shown
    )
    return found


def show_performance(out: Output, rows: Sequence[api.cost.Performance]) -> None:
    """Write what was predicted of each bundle next to what devices reported, and what each prediction rests on."""
    out.table(rows, PERFORMANCE.columns)
    for row in rows:
        estimate = row.predicted or row.current
        if estimate:
            level = f", true for {estimate['level']:.0%} of models" if estimate["basis"] != "none" else ""
            out.prose(f"{row.profile}: {estimate['basis']}: {estimate['reason']}{level}")


def cost_fields(state: api.cost.CostState) -> list[tuple[str, str]]:
    """Return what the cost model of a profile rests on, for eyes."""
    names = {"latency_p50_ms": "p50", "latency_p95_ms": "p95", "memory_bytes": "memory"}
    errors = ", ".join(f"{name} {share(state.error[key])}" for key, name in names.items() if key in state.error)
    return [
        ("cost model", f"{text(state.basis)}: {text(state.reason)}"),
        ("rests on", f"{counted(state.models, 'model')}, {counted(state.devices, 'device')}"),
        ("error", f"{errors}, true for {state.level:.0%} of models" if errors else "no estimate"),
    ]


def _foreseen(row: api.cost.Performance, quantity: str, show: Callable[[Any], str]) -> str:
    """Return what was predicted at publishing; where that was nothing, what is predicted today, marked so."""
    was, today = row.predicted or {}, row.current or {}
    if not was.get(quantity) and today.get(quantity):
        return f"{predicted(today, quantity, show)} (today)"
    return predicted(was or today, quantity, show)


def _off(row: api.cost.Performance, quantity: str) -> str:
    shown = _signed(row.error.get(quantity))
    return f"{shown} (outside)" if row.within.get(quantity) is False else shown


def _signed(error: float | None) -> str:
    return "-" if error is None else f"{error * 100:+.0f} %"


def _refused_rows(release: api.release.Release) -> Iterator[api.bundle.Bundle]:
    for failure in failures(release):
        verdict = "cancelled" if failure.code == "conversion.cancelled" else "refused"
        yield api.bundle.Bundle(profile=failure.profile, verdict=verdict)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _pair(p50: float | None, p95: float | None) -> str:
    """Return two times in milliseconds, as short as their size allows."""
    return "-" if p50 is None or p95 is None else f"{_short(p50)}/{_short(p95)}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _latency(latency_ms: dict[str, Any] | None, quantile: str) -> Any:
    return latency_ms.get(quantile) if latency_ms else None
