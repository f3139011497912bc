"""What a policy asks of a release, and what the release lacks. Pure.

A rule that is not known, as one of a newer server, is never met: what nobody can check is not let through.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_server.governance.release_policies.model import PolicyFinding, ReleaseFacts, ReleasePolicy

_NUMBERED: Final = re.compile(r"([a-z_]+)>=([1-9][0-9]{0,8})")
_MODELS: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,61}\*?|[a-z0-9][a-z0-9._-]{0,62}")

_SAID: Final = 10


@dataclass(frozen=True)
class _Rule:
    """is_met: of the facts and the number of the rule, 0 without one; what: what is wrong else; next_step: how to mend it."""

    is_met: Callable[[ReleaseFacts, int], bool]
    what: Callable[[ReleaseFacts, int], str]
    next_step: str
    is_numbered: bool = False


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
        is_numbered=True,
    ),
    "signers": _Rule(
        lambda f, n: f.signers >= n,
        lambda f, n: (
            f"{n} people have to sign it, and {f.signers} of its team do"
            if f.signers
            else f"{n} people of a team have to sign it, and the server alone signs it"
        ),
        "give the model a team with that threshold: `edgectl key team --help`",
        is_numbered=True,
    ),
}


def mistakes_in(models: Sequence[str], require: Sequence[str]) -> list[str]:
    """Return what is wrong with a policy, nothing when all of it is known."""
    found = [f"{one[:80]!r} is no rule; those are {', '.join(shown())}" for one in require if _parsed(one) is None]
    found += [
        f"{one[:80]!r} is no name of a model, nor the beginning of one with *"
        for one in models
        if not _MODELS.fullmatch(one)
    ]
    names = [parsed[0] for one in require if (parsed := _parsed(one)) is not None]
    if len(set(names)) != len(names):
        found.append("a rule stands in it twice")
    if not require:
        found.append("it requires nothing")
    return found


def shown() -> list[str]:
    """Return the rules as a file writes them."""
    return [f"{name}>=N" if rule.is_numbered else name for name, rule in _RULES.items()]


def holds_for(policy: ReleasePolicy, facts: ReleaseFacts) -> bool:
    """Tell whether a policy is about a release: about its model, and made for releases of its time."""
    is_named = not policy.models or any(
        facts.model.startswith(one[:-1]) if one.endswith("*") else facts.model == one for one in policy.models
    )
    return is_named and facts.created_at >= policy.since


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
    return f"{ref} may not be deployed: {'; '.join(said)}", "; ".join(dict.fromkeys(one.next_step for one in shown_here))


def _finding(policy: str, text: str, facts: ReleaseFacts) -> PolicyFinding | None:
    parsed = _parsed(text)
    if parsed is None:
        return PolicyFinding(
            policy, text, f"this server does not know the rule {text!r}", "update the server, or the policy"
        )
    name, number = parsed
    rule = _RULES[name]
    if rule.is_met(facts, number):
        return None
    return PolicyFinding(policy, text, rule.what(facts, number), rule.next_step.replace("REF", facts.ref))


def _parsed(text: str) -> tuple[str, int] | None:
    """Return a rule's name and number, None for none."""
    found = _NUMBERED.fullmatch(text)
    name, number = (found.group(1), int(found.group(2))) if found else (text, 0)
    rule = _RULES.get(name)
    return (name, number) if rule is not None and rule.is_numbered == bool(number) else None
