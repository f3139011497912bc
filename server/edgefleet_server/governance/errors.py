"""Refusals of governance."""

from collections.abc import Mapping, Sequence

from edgefleet_protocol.errors import EdgefleetError


class GovernanceError(EdgefleetError):
    """Base of all refusals of governance."""

    code = "governance.failed"


class EvidenceBusyError(GovernanceError):
    """This process is collecting evidence already; one archive is made at a time."""

    code = "governance.evidence_busy"
    default_next_step = "try again when the other archive is made, in a minute or so"


class NoTrailError(GovernanceError):
    """The audit trail has no head yet, so there is no key that could sign evidence."""

    code = "governance.no_trail"
    default_next_step = "try again when the server has run for a minute: its first head makes the key"


class EvidenceTooLargeError(GovernanceError):
    """The evidence is larger than one archive may be."""

    code = "governance.evidence_too_large"
    default_next_step = "ask for one release, or for a shorter time: --release REF, --since 90d"


class EvidenceIncompleteError(GovernanceError):
    """What the evidence is made of could not be read."""

    code = "governance.evidence_incomplete"
    default_next_step = "try again; the server's log names the cause under the request's id"


class PolicyUnknownError(GovernanceError):
    """No release policy has this name."""

    code = "governance.policy_unknown"


class OtherPolicyChangeError(GovernanceError):
    """What was asked of a policy is not what the approval names."""

    code = "governance.other_policy_change"
    default_next_step = "read it again with `edgectl policy show NAME`, and approve what you saw"


class NoPolicyChangeError(GovernanceError):
    """Nothing waits that would weaken the policy."""

    code = "governance.no_policy_change"
    default_next_step = "`edgectl policy list` shows what waits"


class BadPolicyError(GovernanceError):
    """This cannot be a release policy."""

    code = "governance.bad_policy"
    default_next_step = "the rules are on the page of release policies: docs/operate/release-policies.md"


class PolicyNotMetError(GovernanceError):
    """The release lacks what a policy requires, so it goes to no device. errors: each rule that it does not meet."""

    code = "governance.policy_not_met"
    default_next_step = "`edgectl policy check REF` says what it lacks and how to mend that"

    def __init__(self, message: str, *, next_step: str, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__(message, next_step=next_step)
        self.errors = [dict(one) for one in errors]
