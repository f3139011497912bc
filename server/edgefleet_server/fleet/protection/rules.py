"""When a protected device's document may change, and which selectors a rule may have. Pure.

Rules:
1. What takes something away from a device needs no warrant: a model that is dropped, a candidate that ends.
2. Everything else that changes what a document says of a model needs one: another bundle, the same bundle in another rollout's name
   (else that rollout could no longer take the device back), a candidate, another mode or share of a candidate.
3. An approved rollout may offer its release. It may take a device back from its own release only: what a document names in another's
   name, it leaves. One that nobody approved (it is older than the rule) takes devices back to what it noted that they ran before.
4. A person may change a document at once while they have broken the glass of every rule that the device is under.
5. A rule's selector names only what people set (labels, groups, profile, id), so that no device leaves or joins a rule by what it reports.
Source: ADR 0118.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from edgefleet_protocol.desired import ModelDesired, Ref
from edgefleet_server.fleet.protection.model import PersonWarrant, RolloutWarrant, Warrant
from edgefleet_server.fleet.selectors.grammar import MODEL_PREFIX, RESERVED, Selector

STEADY: Final = frozenset({"id", "profile", "group"})
"""Facts of a device that only people change."""
_NOTHING: Final = ModelDesired(active=None)
NO_WARRANT: Final = "it takes releases only by an approved rollout"
NOT_APPROVED: Final = "nobody approved the first stage of this rollout for it"
NOT_ITS_OWN: Final = "its document names a release that this rollout did not bring"
NOT_BEFORE: Final = "it did not run that before, and nobody approved the rollout"


def is_in_force(ends_at: datetime | None, now: datetime) -> bool:
    """Return whether a rule is in force. ends_at: when it ends, None = it does not."""
    return ends_at is None or ends_at > now


def unsteady_keys(selectors: Sequence[Selector]) -> list[str]:
    """Return the keys of a rule's selector (and of the groups that it names) that no rule may have, sorted."""
    keys = {one.key for selector in selectors for one in selector.requirements}
    return sorted(key for key in keys if (key in RESERVED and key not in STEADY) or key.startswith(MODEL_PREFIX))


def gained(before: Mapping[str, ModelDesired], after: Mapping[str, ModelDesired]) -> list[str]:
    """Return the models of which a document says something new, apart from what was taken away."""
    return [model for model, desired in after.items() if _gains(before.get(model, _NOTHING), desired)]


def _gains(before: ModelDesired, after: ModelDesired) -> bool:
    if after.active is not None and _named(before.active) != _named(after.active):
        return True
    if after.candidate is None:
        return False
    ways = [
        (*_named(one.candidate), one.candidate.attempt if one.candidate else 0, one.mode, one.share_pct, one.salt)
        for one in (before, after)
    ]
    return ways[0] != ways[1]


def _named(ref: Ref | None) -> tuple[str, str, str]:
    return ("", "", "") if ref is None else (ref.target, ref.sha256, ref.rollout or "")


def refusal(
    before: Mapping[str, ModelDesired],
    after: Mapping[str, ModelDesired],
    warrant: Warrant,
    rules: Collection[str],
    broken: Collection[str] = (),
) -> str:
    """Return why a device's document may not change so, "" when it may.

    before, after: models of the document. rules: those in force that the device is under. broken: rules that the person has set aside.
    """
    models = gained(before, after) if rules else []
    if not models:
        return ""
    match warrant:
        case PersonWarrant():
            return "" if set(rules) <= set(broken) else NO_WARRANT
        case RolloutWarrant(is_rollback=True):
            return next(
                (why for model in models if (why := _no_rollback(before.get(model), after[model], warrant))), ""
            )
        case RolloutWarrant():
            return "" if warrant.approved_by else NOT_APPROVED
        case None:
            return NO_WARRANT


def _no_rollback(before: ModelDesired | None, after: ModelDesired, warrant: RolloutWarrant) -> str:
    """Return why a rollout may not take a device back so, "" when it may."""
    ran = None if before is None else before.active
    if ran is None or ran.rollout != warrant.rollout:
        return NOT_ITS_OWN
    if warrant.approved_by:
        return ""
    return "" if after.active is not None and after.active.sha256 == warrant.before else NOT_BEFORE
