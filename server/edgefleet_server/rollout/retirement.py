"""Takes releases away: withdraws those that may run somewhere, and deletes those that never ran anywhere.

Thread-safe; calls block. Both are one transaction, and lock in the order of everybody else: the turn to sign, jobs, the making of
rollouts, the model, the release, blobs, rollouts, devices.
- Withdrawn: TUF names its bundles no more and says so, signed by who signs releases; its conversions end, and its open rollouts end where
  they stand. Devices that run it go on. Everything older may go with it: then TUF also says the least security version (ADR 0114).
- Deleted: only when no device ever had a document of it and nothing names it. Fails closed: any trace of use is a refusal.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ModelName, ReleaseRef
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.db.database import Database
from edgefleet_server.events.model import NewEvent
from edgefleet_server.registry.errors import ReleaseBusyError, ReleaseInUseError, ReleaseUnsignedError
from edgefleet_server.registry.model import ReleaseState, ReleaseView
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.registry.withdrawals import SignedVersion
from edgefleet_server.rollout.errors import ReasonNeededError
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.store import rollouts as store_rollouts
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.service import SigningService

KIND: Final = "release"
"""Of the events that it adds."""


class ReleaseRetirement:
    """Withdraws and deletes releases."""

    def __init__(
        self,
        db: Database,
        registry: RegistryService,
        signing: SigningService,
        conversion: ConversionService,
        rollouts: RolloutService,
        fleet: RolloutFleet,
    ) -> None:
        """Wire the parts."""
        self._db = db
        self._registry = registry
        self._signing = signing
        self._conversion = conversion
        self._rollouts = rollouts
        self._fleet = fleet

    def withdraw(self, ref: ReleaseRef, by: str, reason: str, *, older: bool = False) -> Sequence[ReleaseView]:
        """Withdraw a release, and with `older` all that were signed before it; return it, then those that went with it.

        What was withdrawn before stays as it was. Raises ReasonNeededError, ReleaseUnknownError, ReleaseUnsignedError.
        """
        if not reason.strip():
            raise ReasonNeededError(
                "withdrawing a release needs a reason: it is shown wherever the release is",
                next_step="give one: --reason 'why'",
            )
        with self._db.session() as session:
            self._signing.remove_targets([])  # nothing of the release is signed from here on
            release = self._registry.release(ref)
            if not release.bundles:
                raise ReleaseUnsignedError(
                    f"{ref} has no signed bundle, so no device can have it",
                    next_step=f"nothing needs to be withdrawn; `edgectl release delete {ref}` removes it",
                )
            signed = self._registry.withdrawals.signed_versions(ref.model)
            place = next(place for place, one in enumerate(signed) if one.ref == ref)
            going = signed[: place + 1] if older else [signed[place]]
            leaving = [one.ref for one in reversed(going) if one.withdrawn_at is None]
            self._sign(ref.model, signed, leaving, signed[place + 1 :] if older else None)
            for one in leaving:
                self._conversion.cancel(one, by)
            store_rollouts.lock_making(session, ref.model)
            for one in leaving:
                why = reason.strip() if one == ref else f"older than {ref}, which was withdrawn: {reason.strip()}"
                self._leave(one, by, why)
            return [self._registry.release(one) for one in (ref, *(one for one in leaving if one != ref))]

    def waits_for_team(self, model: ModelName) -> bool:
        """Return whether a withdrawal waits for the signatures of the model's team. Until then devices do not hear of it."""
        waiting = self._signing.teams.waiting(model)
        return waiting is not None and waiting.act == "withdraw"

    def _sign(
        self,
        model: ModelName,
        signed: Sequence[SignedVersion],
        leaving: Sequence[ReleaseRef],
        staying: Sequence[SignedVersion] | None,
    ) -> None:
        """Let TUF name none of what leaves, and say so. staying: everything newer, when a floor is to be set below it; else None."""
        views = self._registry.releases_of(leaving)
        paths = [bundle.target for view in views.values() for bundle in view.bundles]
        versions = [*_withdrawn(signed), *(one.version for one in reversed(leaving))]
        numbers: Mapping[str, int] = {}
        floor = 0
        if staying is not None:
            numbers = self._signing.release_numbers(model, {one.ref.version: one.made_at for one in signed})
            newest = signed[len(signed) - len(staying) - 1].ref.version
            kept = [numbers[one.ref.version] for one in staying if one.withdrawn_at is None]
            floor = min([numbers[newest] + 1, *kept])  # what leaves is named too: none that stays is ever shut out
        self._signing.withdraw_targets(TargetWithdrawal(model, paths, versions, floor, numbers))

    def _leave(self, ref: ReleaseRef, by: str, why: str) -> None:
        self._registry.withdrawals.withdraw(ref, by, why)
        self._registry.refresh_state(ref)
        ended = self._rollouts.leave_release(ref, by, f"{ref} was withdrawn by {by}: {why}")
        self._tell(ref, "withdrawn", by, why, {"rollouts": list(ended)})

    def delete(self, ref: ReleaseRef, by: str, reason: str) -> Sequence[Sha256]:
        """Delete a release; return the digests of blobs for `drop_bytes`.

        Raises ReleaseUnknownError, ReleaseBusyError, ReleaseInUseError.
        """
        with self._db.session() as session:
            self._signing.remove_targets([])
            store_rollouts.lock_making(session, ref.model)
            self._registry.withdrawals.hold(ref)  # who deploys it or names it now waits, and finds nothing
            release = self._registry.release(ref)
            if release.state is ReleaseState.CONVERTING:
                raise ReleaseBusyError(
                    f"{ref} is being converted", next_step=f"end that first: `edgectl release cancel {ref}`"
                )
            if uses := list(self._uses(release)):
                raise ReleaseInUseError(
                    f"{ref} cannot be deleted: {'; '.join(uses)}",
                    next_step=f"withdraw it, so that nobody can deploy it any more: `edgectl release withdraw {ref} --reason TEXT`",
                )
            self._signing.remove_targets([bundle.target for bundle in release.bundles])
            self._signing.teams.drop_release(ref.model, ref.version)
            gone = self._registry.withdrawals.remove(ref, by, reason.strip())
            self._tell(ref, "deleted", by, reason, {"signed": bool(release.bundles)})
            return gone

    def drop_bytes(self, digests: Sequence[Sha256]) -> None:
        """Remove the bytes of what `delete` returned, once that is committed. What cannot be removed now is tried again every hour."""
        self._registry.withdrawals.drop(digests)

    def _uses(self, release: ReleaseView) -> Iterator[str]:
        """Yield what speaks against deleting a release."""
        ref = release.ref
        if release.aliases:
            yield f"{', '.join(f'{ref.model}@{alias}' for alias in release.aliases)} stands for it"
        if named := self._rollouts.finder.naming(ref):
            yield f"{len(named)} rollout{'s' if len(named) > 1 else ''} named it, the newest is {named[0]}"
        if self._fleet.feed.has_named("desired", ref.model, str(ref)):
            yield "it was deployed to devices"
        running = [
            one for one in self._fleet.reader.summary().models if (one.model, one.version) == (ref.model, ref.version)
        ]
        if devices := sum(one.devices for one in running):
            yield f"{devices} device{'s' if devices > 1 else ''} reported it"

    def sign_earlier(self) -> int:
        """Let TUF say what was withdrawn before it could; return for how many models it did not yet. Signs only what is missing."""
        models = {ReleaseRef.parse(ref).model for ref in self._registry.withdrawn()}
        missing = 0
        for model in sorted(models):
            versions = _withdrawn(self._registry.withdrawals.signed_versions(model))
            with self._db.session():
                missing += self._signing.withdraw_targets(TargetWithdrawal(model, (), versions))
        return missing

    def _tell(self, ref: ReleaseRef, to: str, by: str, reason: str, more: dict[str, object]) -> None:
        detail = {"to": to, "release": str(ref), "by": by, "reason": reason.strip(), **more}
        self._fleet.feed.add([NewEvent(KIND, "", ref.model, detail=detail)])


def _withdrawn(signed: Sequence[SignedVersion]) -> list[str]:
    """Return the versions that were withdrawn, in that order."""
    found = [(one.withdrawn_at, one.ref.version) for one in signed if one.withdrawn_at is not None]
    return [version for _, version in sorted(found)]
