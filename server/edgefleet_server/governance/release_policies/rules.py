"""What a policy asks of a release, and what the release lacks. Pure.

A rule that is not known, as one of a newer server, is never met: what nobody can check is not let through.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from edgefleet_server.governance.release_policies.model import (
    PolicyChange,
    PolicyFinding,
    ReleaseFacts,
    ReleasePolicy,
)
from edgefleet_terms.release_rules import is_about, parsed

_SAID: Final = 10


@dataclass(frozen=True)
class _Rule:
    """is_met: of the facts and the number of the rule, 0 without one; what: what is wrong else; next_step: how to mend it."""

    is_met: Callable[[ReleaseFacts, int], bool]
    what: Callable[[ReleaseFacts, int], str]
    next_step: str


_CARD: Final = "write it into card.yaml: `edgectl model card set REF -f card.yaml`"
_RULES: Final[Mapping[str, _Rule]] = {
    "owner": _Rule(lambda f, _n: f.owner != "", lambda _f, _n: "its card names no owner", _CARD),
    "licence": _Rule(lambda f, _n: f.licence != "", lambda _f, _n: "its card names no licence", _CARD),
    "card": _Rule(
        lambda f, _n: not f.missing_parts,
        lambda f, _n: f"its card says nothing of: {', '.join(f.missing_parts)}",
        _CARD,
    ),
    "importance": _Rule(
        lambda f, _n: f.has_importance,
        lambda _f, _n: "it was not measured which inputs it hangs on",
        "publish it with --eval, labels included",
    ),
    "sealed": _Rule(lambda f, _n: f.is_sealed, lambda _f, _n: "its model is not sealed", "publish it with --seal"),
    "hold_out": _Rule(
        lambda f, n: f.hold_out >= n,
        lambda f, n: f"its accuracy was measured on {f.hold_out} samples that no choice has seen, not on {n}",
        "publish it with a larger --eval",
    ),
    "signers": _Rule(
        lambda f, n: f.signers >= n,
        lambda f, n: (
            f"{n} people have to sign it, and {f.signers} of its team do"
            if f.signers
            else f"{n} people of a team have to sign it, and the server alone signs it"
        ),
        "give the model a team with that threshold: `edgectl key team --help`",
    ),
}


def holds_for(policy: ReleasePolicy, facts: ReleaseFacts) -> bool:
    """Tell whether a policy is about a release: about its model, and made for releases of its time."""
    return is_about(policy.models, facts.model) and facts.created_at >= policy.since


def in_force(policy: ReleasePolicy, now: datetime) -> ReleasePolicy | None:
    """Return a policy as it holds now: a change that has begun is made; None for a policy that has ended."""
    change = policy.change
    if change is None or now < change.begins_at:
        return policy
    return None if change.ends else changed(policy, change)


def changed(policy: ReleasePolicy, change: PolicyChange) -> ReleasePolicy:
    """Return a policy with the change that was asked for made."""
    return replace(
        policy,
        models=change.models,
        require=change.require,
        since=change.since,
        changed_at=change.begins_at,
        changed_by=change.asked_by,
        change=None,
    )


def weakens(before: ReleasePolicy, after: ReleasePolicy) -> bool:
    """Tell whether a policy lets some release through that it refuses now: other models, later releases only, less of a rule."""
    is_narrower = bool(after.models) and (not before.models or not all(_covered(one, after) for one in before.models))
    return is_narrower or after.since > before.since or not all(_kept(rule, after) for rule in before.require)


def _covered(models: str, after: ReleasePolicy) -> bool:
    if not models.endswith("*"):
        return is_about(after.models, models)
    return any(one.endswith("*") and models.startswith(one[:-1]) for one in after.models)


def _kept(rule: str, after: ReleasePolicy) -> bool:
    known = parsed(rule)
    return rule in after.require or any(
        known is not None and other is not None and other[0] == known[0] and other[1] >= known[1]
        for other in map(parsed, after.require)
    )


def lacking(policies: Iterable[ReleasePolicy], facts: ReleaseFacts) -> list[PolicyFinding]:
    """Return all that a release lacks, in the order of policies and their rules."""
    return [
        finding
        for policy in policies
        if holds_for(policy, facts)
        for one in policy.require
        if (finding := _finding(policy.name, one, facts)) is not None
    ]


def refusal(ref: str, findings: Sequence[PolicyFinding]) -> tuple[str, str]:
    """Return in words why a release may not be deployed, and what to do: all rules that it does not meet, at most ten of them."""
    shown_here = findings[:_SAID]
    said = [f"{one.policy} requires {one.rule}: {one.what}" for one in shown_here]
    if len(findings) > _SAID:
        said.append(f"and {len(findings) - _SAID} more: `edgectl policy check {ref}`")
    return f"{ref} may not be deployed: {'; '.join(said)}", "; ".join(
        dict.fromkeys(one.next_step for one in shown_here)
    )


def _finding(policy: str, text: str, facts: ReleaseFacts) -> PolicyFinding | None:
    known = parsed(text)
    if known is None:
        return PolicyFinding(
            policy, text, f"this server does not know the rule {text!r}", "update the server, or the policy"
        )
    name, number = known
    rule = _RULES[name]
    if rule.is_met(facts, number):
        return None
    return PolicyFinding(policy, text, rule.what(facts, number), rule.next_step.replace("REF", facts.ref))
