"""The sections of a model card, in words, from what is known of a release. Pure.

Every line says where it comes from: measured, recorded, stated by a person; and what is missing stands there as missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgefleet_profiles.metric_words import figure_text
from edgefleet_profiles.number_format import milliseconds, size
from edgefleet_server.governance.release_policies.model import PolicyCheck
from edgefleet_server.model_cards.model import CardSection, Fact, FactOrigin, Statement
from edgefleet_server.registry.model import ReleaseView, SourceView
from edgefleet_server.rollout.status.reader import RolloutView
from edgefleet_server.telemetry.bundle_metrics import BundleLine
from edgefleet_server.telemetry.ground_truth.views import AccuracyLine, ModelAccuracy
from edgefleet_terms.feature_importance import Importance, interval_text, measured_text, shap_text, worth_text
from edgefleet_terms.parent_verdict import ParentComparison, comparison_text

MODEL: Final = "Model"
STATED: Final = "Use and responsibility"
DATA: Final = "Data"
ACCURACY: Final = "Accuracy"
FIELD: Final = "Accuracy in the field"
BUNDLES: Final = "Bundles"
INPUTS: Final = "Inputs that matter"
POLICIES: Final = "Release policies"
FLEET: Final = "Where it runs and who approved"
_MOST: Final = 20
_LINEAGE: Final[Mapping[str, str]] = {
    "uri": "Origin", "git_commit": "Git commit", "dvc_rev": "DVC revision", "run_id": "Registry run",
    "registry_url": "Registry", "registry_model": "Registered model", "parent": "Parent release",
    "retraining": "Result of the retraining",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What is known of a release. report: of its conversion, {} without one; segments: accuracy in the field by segment."""

    release: ReleaseView
    source: SourceView
    report: Mapping[str, Any]
    importance: Importance
    comparison: ParentComparison
    bundles: Sequence[BundleLine]
    field: ModelAccuracy | None
    segments: Sequence[AccuracyLine]
    running: int
    rollouts: Sequence[RolloutView]
    policies: PolicyCheck


def sections_of(facts: CardFacts, stated: Statement) -> list[CardSection]:
    """Return all sections of a card; one without facts says that nothing was measured."""
    return [
        CardSection(MODEL, _model(facts)),
        CardSection(STATED, _stated(stated)),
        CardSection(DATA, _data(facts, stated)),
        CardSection(ACCURACY, _accuracy(facts)),
        CardSection(FIELD, _field(facts)),
        CardSection(BUNDLES, _bundles(facts)),
        CardSection(INPUTS, _inputs(facts.importance)),
        CardSection(POLICIES, _policies(facts.policies)),
        CardSection(FLEET, _fleet(facts)),
    ]


def _recorded(name: str, value: str) -> Fact:
    return Fact(name, value, FactOrigin.RECORDED)


def _measured(name: str, value: str) -> Fact:
    return Fact(name, value, FactOrigin.MEASURED) if value else Fact(name, "not measured", FactOrigin.NOT_MEASURED)


def _model(facts: CardFacts) -> list[Fact]:
    release, files = facts.release, facts.source.files
    named = files[0].path if len(files) == 1 else f"{len(files)} files"
    lines = [
        _recorded("Release", str(release.ref)),
        _recorded("Published", f"{release.created_at:%Y-%m-%d %H:%M} UTC by {release.created_by}"),
        _recorded("Source", f"{named}, {size(sum(one.length for one in files))}, sha256 {release.source_sha256}"),
        *([_recorded("Aliases", ", ".join(release.aliases))] if release.aliases else []),
    ]
    if release.withdrawn is not None:
        lines.append(_recorded("Withdrawn", f"{release.withdrawn.reason} (by {release.withdrawn.by})"))
    order = {key: at for at, key in enumerate(_LINEAGE)}
    for key in sorted(release.lineage, key=lambda key: (order.get(key, len(order)), key)):
        said = f"{release.lineage[key]}, as its publisher states"
        lines.append(Fact(_LINEAGE.get(key, key.replace("_", " ").capitalize()), said, FactOrigin.STATED))
    if "parent" not in release.lineage:
        lines.append(Fact("Parent release", "not stated", FactOrigin.NOT_STATED))
    return lines


def _stated(stated: Statement) -> list[Fact]:
    lines = [
        ("Owner", stated.owner), ("Contact", stated.contact), ("Licence", stated.licence), ("Summary", stated.summary),
        ("Intended use", stated.intended_use), ("Not for", stated.not_for), ("Limits", "; ".join(stated.limits)),
        ("References", "; ".join(stated.references)),
    ]  # fmt: skip
    facts = [_said(name, value) for name, value in lines]
    if stated.by and stated.at is not None:
        facts.append(_recorded("Stated by", f"{stated.by}, {stated.at:%Y-%m-%d %H:%M} UTC, of {stated.of}"))
    return facts


def _said(name: str, value: str) -> Fact:
    return Fact(name, value, FactOrigin.STATED) if value else Fact(name, "not stated", FactOrigin.NOT_STATED)


def _data(facts: CardFacts, stated: Statement) -> list[Fact]:
    data = facts.report.get("data")
    known: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    judged, unseen = count_in(known, "judging_samples"), count_in(known, "hold_out_samples")
    drift = known.get("drift_reference")
    reference: Mapping[str, Any] = drift if isinstance(drift, Mapping) else {}
    is_timed = "by part of the day" if reference.get("by_hour") else "without times"
    return [
        _said("What the data is", stated.data),
        _measured("Judged on", f"{judged} samples ({known.get('judged_on')})" if judged else ""),
        _measured("Hold-out", f"{unseen} samples that no choice has seen" if unseen else ""),
        _measured("Labelled", f"{facts.importance.given} samples" if facts.importance.given else ""),
        _measured("Calibration", f"{count_in(known, 'calibration_samples')} samples" if known else ""),
        _measured(
            "Drift reference",
            f"{count_in(reference, 'samples')} samples, {count_in(reference, 'signals')} signals, {is_timed}" if reference else "",
        ),
        *[_recorded(f"File: {name}", f"sha256 {digest}") for name, digest in sorted(facts.source.data.items())],
    ]  # fmt: skip


def count_in(document: Mapping[str, Any], name: str) -> int:
    """Return a count of a report, 0 where it says none: a child process wrote it."""
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _accuracy(facts: CardFacts) -> list[Fact]:
    lines = [_measured(line.view.profile, _metric(line)) for line in facts.bundles] or [_measured("All profiles", "")]
    if "parent" not in facts.release.lineage:
        return lines
    if facts.comparison.is_measured:
        return [*lines, _measured("Next to its parent", comparison_text(facts.comparison))]
    return [*lines, Fact("Next to its parent", comparison_text(facts.comparison), FactOrigin.NOT_MEASURED)]


def _metric(line: BundleLine) -> str:
    metric = line.metric
    if metric is None or not metric.is_measured:
        return ""
    raw = line.view.report.get("metric")
    bound = raw.get("bound") if isinstance(raw, Mapping) else None
    said = f"{metric.name} {figure_text(metric.name, metric.value)}"
    if isinstance(bound, int | float) and not isinstance(bound, bool):
        side = "at most" if metric.is_lower_better else "at least"
        said += f", {side} {figure_text(metric.name, float(bound))} at 95 %"
    if metric.baseline is not None:
        said += f"; source {figure_text(metric.name, metric.baseline)}"
    return f"{said}; {metric.n or 0} samples ({metric.data})"


def _field(facts: CardFacts) -> list[Fact]:
    found = facts.field
    lines = [one for one in found.lines if one.labelled] if found is not None else []
    whole = [_measured("All devices", _truth(one)) for one in lines[:1]] or [_measured("All devices", "")]
    named = [one for one in facts.segments if one.name and one.labelled][:_MOST]
    segments = [_measured(f"Segment {one.name}", _truth(one)) for one in named] or [_measured("Segments", "")]
    return [*whole, *segments]


def _truth(one: AccuracyLine) -> str:
    devices = f"{one.labelled} labels from {one.devices} device{'' if one.devices == 1 else 's'}"
    if one.accuracy is not None:
        low, high = one.low, one.high
        between = f" ({100 * low:.1f} % to {100 * high:.1f} % at 95 %)" if low is not None and high is not None else ""
        return f"{100 * one.accuracy:.1f} % right{between}, {devices}"
    return f"mean error {one.error:.4g}, {devices}" if one.error is not None else ""


def _bundles(facts: CardFacts) -> list[Fact]:
    lines: list[Fact] = []
    for one in facts.bundles:
        name, view = one.view.profile, one.view
        ratio = f", {100 * one.ratio:.0f} % of float32" if one.ratio is not None else ""
        recipe = view.report.get("candidate")
        how = f"{view.runtime}, {view.precision}" + (f" ({recipe})" if isinstance(recipe, str) and recipe else "")
        lines.append(_recorded(f"{name}: how", f"{how}; verdict {one.verdict or 'none'}"))
        lines.append(_measured(f"{name}: size", f"{size(one.bytes)}{ratio}" if one.bytes is not None else ""))
        host = milliseconds(one.host_p50_ms) if one.host_p50_ms is not None else ""
        lines.append(_measured(f"{name}: latency on the server", f"p50 {host}" if host else ""))
        seen = one.observed
        said = (
            f"p50 {milliseconds(seen.latency_p50_ms)}, p95 {milliseconds(seen.latency_p95_ms)}, {seen.devices} devices"
            if seen is not None and seen.latency_p50_ms is not None
            else ""
        )
        lines.append(_measured(f"{name}: latency on devices", said))
    return [*lines, _measured("Energy", "")]


def _inputs(found: Importance) -> list[Fact]:
    if not found.is_measured:
        return [Fact("All inputs", f"not measured: {found.why}", FactOrigin.NOT_MEASURED)]
    lines = [
        _measured(one.name, f"{worth_text(one, found)}, {interval_text(one, found)} at 95 %")
        for one in found.features[:_MOST]
    ]
    if found.maps:
        lines.append(_measured(found.maps[0].input, f"map of its parts, {found.maps[0].n} pictures"))
    missing = [Fact(name, "not measured", FactOrigin.NOT_MEASURED) for name in found.not_measured[:_MOST]]
    return [*lines, *missing, _measured("How", measured_text(found)), *_shap(found)]


def _shap(found: Importance) -> list[Fact]:
    """Return mean |SHAP| of each column, where it was asked for."""
    if found.shap is None:
        return []
    if not found.shap.features:
        return [Fact("SHAP", f"not measured: {found.shap.why}", FactOrigin.NOT_MEASURED)]
    lines = [
        _measured(f"SHAP of {one.name}", f"{one.value:.3g}, {one.low:.3g} to {one.high:.3g} at 95 %")
        for one in found.shap.features[:_MOST]
    ]
    return [*lines, _measured("How SHAP", shap_text(found.shap))]


def _policies(found: PolicyCheck) -> list[Fact]:
    """Say of each policy that is about the release whether it is met, and which of its rules are not."""
    lines = []
    for name in found.policies:
        lacks = [f"{one.rule}: {one.what}" for one in found.findings if one.policy == name]
        lines.append(_recorded(name, f"not met, {'; '.join(lacks)}" if lacks else "met"))
    return lines or [_recorded("Policies", "none is about this release")]


def _fleet(facts: CardFacts) -> list[Fact]:
    running = f"{facts.running} device{'' if facts.running == 1 else 's'}"
    lines = [_recorded("Runs on", running)]
    for one in facts.rollouts[:_MOST]:
        given = sorted({who for who in approvers_of(one) if who})
        approved = f"; approved by {', '.join(given)}" if given else "; no approval was asked or given"
        said = f"{one.state}, started by {one.created_by}, {one.created_at:%Y-%m-%d}{approved}"
        lines.append(_recorded(f"Rollout {one.name or one.id}", said))
    if not facts.rollouts:
        lines.append(_recorded("Rollouts", "none"))
    return lines


def approvers_of(rollout: RolloutView) -> list[str]:
    """Return the names of those who approved a stage of a rollout."""
    return [
        cell.approval.approved_by
        for stage in rollout.stages
        for cell in stage.strata
        if cell.approval is not None and cell.approval.approved_by
    ]
