"""How a release is shown: one row a bundle, one a refusal, the same after `publish` and in `release show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_OK
from edgefleet_cli.render.format import counted, metric, milliseconds, moment, predicted, ratio, share, size, text
from edgefleet_cli.render.output import Column, Output, Sheet, visible

Json = dict[str, Any]

RUNNING_STATES = frozenset({"queued", "running"})

BUNDLES = Sheet(
    "bundles",
    [
        Column("profile", lambda b: text(b.get("profile")), keep=True),
        Column("runtime", lambda b: text(b.get("runtime")), spare=3),
        Column("precision", lambda b: text(b.get("precision"))),
        Column("bytes", lambda b: size(b.get("bytes")), right=True, keep=True),
        Column("ratio", lambda b: ratio(b.get("ratio")), right=True, spare=1),
        Column("metric", lambda b: metric(b.get("metric")), keep=True),
        Column("host p50", lambda b: milliseconds(_latency(b, "p50")), right=True, spare=4),
        Column(
            "predicted p50",
            lambda b: predicted(b.get("predicted"), "latency_p50_ms", milliseconds),
            right=True,
            spare=2,
        ),
        Column(
            "predicted memory", lambda b: predicted(b.get("predicted"), "memory_bytes", size), wide=True, right=True
        ),
        Column("host p95", lambda b: milliseconds(_latency(b, "p95")), wide=True, right=True),
        Column("bundle", lambda b: size(b.get("bundle_bytes")), wide=True, right=True),
        Column("peak memory", lambda b: size(b.get("peak_rss_bytes")), wide=True, right=True),
        Column("verdict", lambda b: text(b.get("verdict"))),
        Column("sha256", lambda b: text(b.get("sha256"))[:12], wide=True, keep=True),
    ],
    lambda b: f"{b.get('model')}/{b.get('version')}/{b.get('profile')}",
)

CANDIDATES = Sheet(
    "candidates",
    [
        Column("candidate", lambda c: text(c.get("id")), keep=True),
        Column("precision", lambda c: text(c.get("precision")), spare=2),
        Column("bytes", lambda c: size(c.get("bytes")), right=True),
        Column("score", lambda c: _score(c, "value"), right=True),
        Column("loss", lambda c: _score(c, "drop"), right=True, spare=1),
        Column("p50/p95 ms", lambda c: _pair(_latency(c, "p50"), _latency(c, "p95")), right=True),
        Column("memory", lambda c: size(c.get("peak_rss_bytes")), right=True),
        Column("start", lambda c: milliseconds(c.get("cold_start_ms")), right=True),
        Column("verdict", lambda c: text(c.get("verdict")) + (" *" if c.get("pareto") else "")),
    ],
    lambda c: text(c.get("id")),
)

PERFORMANCE = Sheet(
    "bundles of this release",
    [
        Column("profile", lambda p: text(p.get("profile")), keep=True),
        Column("predicted p50", lambda p: _foreseen(p, "latency_p50_ms", milliseconds), right=True),
        Column("observed p50", lambda p: milliseconds(_observed(p, "latency_p50_ms")), right=True),
        Column("off by", lambda p: _off(p, "latency_p50_ms"), right=True),
        Column("predicted p95", lambda p: _foreseen(p, "latency_p95_ms", milliseconds), wide=True, right=True),
        Column("observed p95", lambda p: milliseconds(_observed(p, "latency_p95_ms")), wide=True, right=True),
        Column("predicted memory", lambda p: _foreseen(p, "memory_bytes", size), right=True),
        Column("observed memory", lambda p: size(_observed(p, "memory_bytes")), right=True),
        Column("devices", lambda p: text(_observed(p, "devices")), right=True),
    ],
    lambda p: text(p.get("profile")),
)

EXAMPLES = Sheet(
    "models that devices reported on",
    [
        Column("release", lambda e: text(e.get("release")), keep=True),
        Column("observed p50", lambda e: milliseconds(_observed(e, "latency_p50_ms")), right=True),
        Column("observed memory", lambda e: size(_observed(e, "memory_bytes")), right=True),
        Column("devices", lambda e: text(_observed(e, "devices")), right=True),
        Column("off when left out", lambda e: _signed((e.get("left_out") or {}).get("latency_p50_ms")), right=True),
    ],
    lambda e: text(e.get("release")),
)

RELEASES = Sheet(
    "releases",
    [
        Column("release", lambda r: text(r.get("ref")), keep=True),
        Column("state", lambda r: text(r.get("state"))),
        Column("bundles", lambda r: ",".join(b.get("profile", "?") for b in r.get("bundles") or []) or "-"),
        Column("refused", lambda r: ",".join(x.get("profile", "?") for x in r.get("refused") or []) or "-"),
        Column("created", lambda r: moment(r.get("created_at"))),
        Column("by", lambda r: text(r.get("created_by")), wide=True),
        Column("source", lambda r: text(r.get("source_sha256"))[:12], wide=True),
    ],
    lambda r: text(r.get("ref")),
)


def is_over(release: Json) -> bool:
    """Tell whether no conversion of this release is waiting or running."""
    return release.get("state") != "converting"


def exit_code(release: Json) -> int:
    """Return 0 when every profile got its signed bundle, 1 when some or all were refused."""
    return EXIT_OK if release.get("state") == "ready" else EXIT_FAILED


def show_release(out: Output, release: Json) -> None:
    """Write a release for eyes: state, bundles and refusals as one table, then why each refusal and what to do."""
    out.fields(
        [
            ("release", text(release.get("ref"))),
            ("state", text(release.get("state"))),
            ("profiles", text(release.get("profiles_reason"))),
            ("created", f"{moment(release.get('created_at'))} by {text(release.get('created_by'))}"),
            *((key.replace("_", " "), text(value)) for key, value in lineage_fields(release)),
        ]
    )
    show_result(out, release)


def lineage_fields(release: Json) -> list[tuple[str, str]]:
    """Return where a release came from: the address first, the rest by name."""
    lineage: dict[str, str] = release.get("lineage") or {}
    names = {"uri": "source", "version": "source version"}
    return [(names.get(key, key), lineage[key]) for key in sorted(lineage, key=lambda key: (key != "uri", key))]


def show_result(out: Output, release: Json) -> None:
    """Write the result table of a release."""
    rows = list(release.get("bundles") or []) + list(_refused_rows(release))
    if rows:
        out.table(rows, BUNDLES.columns)
    for failure in failures(release):
        code = f" ({failure['code']})" if failure["code"] else ""
        out.line(visible(f"{failure['profile']}: {failure['reason']}{code}"))
        if failure["next"]:
            out.line(visible(f"  next: {failure['next']}"))
    for job in release.get("jobs") or []:
        if job.get("state") in RUNNING_STATES:
            out.line(f"{job.get('profile')}: {job.get('state')} {text(job.get('stage'))}")


def show_candidates(out: Output, report: Json) -> None:
    """Write what `report.json` says of the candidates that were tried, one table a profile, the source's figures first."""
    is_starred = False
    for profile in report.get("profiles") or []:
        rows = [row for row in profile.get("candidates") or [] if row.get("verdict") != "not_tried"]
        if not rows:
            continue
        judged: Json = next((row["metric"] for row in rows if row.get("metric")), {})
        source = {
            **(profile.get("fp32") or {"id": "source"}), "verdict": "source", "metric": {"value": judged.get("baseline")},
        }  # fmt: skip
        by = f": {judged['name']} on {judged.get('n')} samples" if judged.get("name") else ""
        out.line(visible(f"{text(profile.get('profile'))}{by}"))
        out.table([source, *rows], CANDIDATES.columns)
        out.line("")
        is_starred = is_starred or any(row.get("pareto") for row in rows)
    if is_starred:
        out.note("* no other candidate is better in loss, bytes and time")


def failures(release: Json) -> list[dict[str, str]]:
    """Return `{profile, code, reason, next}` for refusals and for jobs that failed without one."""
    found = [
        {key: str(refusal.get(key) or "") for key in ("profile", "code", "reason", "next")}
        for refusal in release.get("refused") or []
    ]
    told = {entry["profile"] for entry in found}
    found.extend(
        {
            "profile": str(job.get("profile") or "all profiles"),
            "code": "conversion.failed",
            "reason": str(job.get("message") or "the conversion failed"),
            "next": "",
        }
        for job in release.get("jobs") or []
        if job.get("state") in {"failed", "refused", "cancelled"} and job.get("profile") not in told
    )
    return found


def show_performance(out: Output, rows: list[Json]) -> None:
    """Write what was predicted of each bundle beside what devices reported, and what each prediction rests on."""
    out.table(rows, PERFORMANCE.columns)
    for row in rows:
        estimate = row.get("predicted") or row.get("current") or {}
        if estimate:
            level = f", true for {estimate['level']:.0%} of models" if estimate.get("basis") != "none" else ""
            out.prose(f"{row.get('profile')}: {estimate.get('basis')}: {estimate.get('reason')}{level}")


def cost_fields(state: Json) -> list[tuple[str, str]]:
    """Return what the cost model of a profile rests on, for eyes."""
    error = state.get("error") or {}
    told = f"{counted(state.get('models', 0), 'model')}, {counted(state.get('devices', 0), 'device')}"
    names = {"latency_p50_ms": "p50", "latency_p95_ms": "p95", "memory_bytes": "memory"}
    errors = ", ".join(f"{name} {share(error[key])}" for key, name in names.items() if key in error)
    return [
        ("cost model", f"{text(state.get('basis'))}: {text(state.get('reason'))}"),
        ("rests on", told),
        ("error", f"{errors}, true for {state.get('level', 0):.0%} of models" if errors else "no estimate"),
    ]


def _foreseen(row: Json, quantity: str, show: Callable[[Any], str]) -> str:
    """Return what was predicted at publishing; where that was nothing, what is predicted today, marked so."""
    was, today = row.get("predicted") or {}, row.get("current") or {}
    if not was.get(quantity) and today.get(quantity):
        return f"{predicted(today, quantity, show)} (today)"
    return predicted(was or today, quantity, show)


def _observed(row: Json, key: str) -> Any:
    return (row.get("observed") or {}).get(key)


def _off(row: Json, quantity: str) -> str:
    told = _signed((row.get("error") or {}).get(quantity))
    return f"{told} (outside)" if (row.get("within") or {}).get(quantity) is False else told


def _signed(error: Any) -> str:
    return f"{error * 100:+.0f} %" if isinstance(error, int | float) else "-"


def _refused_rows(release: Json) -> Iterator[Json]:
    for failure in failures(release):
        verdict = "cancelled" if failure["code"] == "conversion.cancelled" else "refused"
        yield {"profile": failure["profile"], "verdict": verdict}


def _score(candidate: Json, key: str) -> str:
    judged = candidate.get("metric")
    value = judged.get(key) if isinstance(judged, dict) else None
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _pair(p50: Any, p95: Any) -> str:
    """Return two times in milliseconds, as short as their size allows."""
    return f"{_short(p50)}/{_short(p95)}" if isinstance(p50, int | float) and isinstance(p95, int | float) else "-"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _latency(bundle: Json, quantile: str) -> Any:
    latency = bundle.get("latency_ms")
    return latency.get(quantile) if isinstance(latency, dict) else None
