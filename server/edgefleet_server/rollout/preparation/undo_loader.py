"""Undoes a model: every device goes back to what it ran before. Looks, and carries out what `commands.undo` chose.

An undo steers several rollouts in one transaction. An undo reopens the rollouts that brought the release
(`finished` → `regressed` → `rolling_back`), ends open ones with a rollback, and makes a new one for devices that no rollout has.
"""

from collections.abc import Sequence
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ModelName, ReleaseRef, RolloutId
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.rollout.commands.undo import OPEN, DeviceVersion, Known, RollbackTarget, Undo, undo
from edgefleet_server.rollout.errors import NothingToUndoError
from edgefleet_server.rollout.model import Bundle, RolloutState
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.spec.fields import NO_ROLLBACK
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.store import assignments, rollouts
from edgefleet_server.rollout.store.tables import Rollout

MAX_ROLLOUTS: Final = 200
"""How far back the rollouts of a model are looked through."""


class Undoer:
    """Reads what an undo has to know."""

    def __init__(self, fleet: RolloutFleet, registry: RegistryService, loader: SnapshotLoader) -> None:
        self._fleet = fleet
        self._registry = registry
        self._loader = loader

    def look(self, session: Session, model: ModelName, only: ReleaseRef | None) -> Undo:
        """Return who of a model's devices goes back to what. Raises NothingToUndoError."""
        standings = self._standings(model)
        rows = rollouts.page(session, states=(), model=model, behind=None, limit=MAX_ROLLOUTS)
        known = [self._known(session, row) for row in rows]
        withdrawn = self._registry.withdrawals.withdrawn_digests(model)
        rules = self._fleet.protection.rules_of([one.device for one in standings])
        found = undo(standings, known, "" if only is None else str(only), withdrawn, rules)
        if not found.targets:
            raise _nothing(str(only or model), found, [] if only else [one for one in known if one.state in OPEN])
        return found

    def _standings(self, model: ModelName) -> list[DeviceVersion]:
        members = self._fleet.devices.population("")
        wants = self._fleet.offers.wants([one.id for one in members], model)
        named = [one for one in members if (want := wants.get(one.id)) is not None and want.active is not None]
        reported = self._fleet.offers.reports_of([one.id for one in named], model)
        digests = {one.previous_sha256 for one in reported.values() if one.previous_sha256}
        bundles = self._registry.bundles_by_digest(sorted(digests))
        found = []
        for member in named:
            report, want = reported.get(member.id), wants[member.id]
            assert want.active is not None, "those without one were left out"
            slots = frozenset[str]() if report is None else frozenset({report.active_sha256, report.previous_sha256})
            other = None if report is None else bundles.get(Sha256(report.previous_sha256))
            found.append(
                DeviceVersion(
                    device=member.id,
                    stratum=member.profile,
                    wanted=Bundle(want.active.target, Sha256(want.active.sha256), want.active.length),
                    gen=want.gen,
                    slots=slots - {""},
                    active_sha256="" if report is None else report.active_sha256,
                    set_by=want.active.rollout or "",
                    other=None if other is None else Bundle(other.target, other.sha256, other.length),
                )
            )
        return found

    def _known(self, session: Session, row: Rollout) -> Known:
        spec = stored_spec(row.spec)
        return Known(
            id=RolloutId(row.id),
            state=RolloutState(row.state),
            release=f"{row.model}@{row.version}",
            assignments={one.device: one for one in assignments.assignments(session, row.id)},
            rollback_bundles=self._loader.rollback_bundles(spec),
            keeps=spec.rollback_to == NO_ROLLBACK,
        )


def steered(targets: Sequence[RollbackTarget]) -> list[RolloutId]:
    """Return the rollouts that have to take devices back, in order of id."""
    return sorted({target.rollout for target in targets if target.rollout is not None})


def _nothing(name: str, found: Undo, open_now: Sequence[Known]) -> NothingToUndoError:
    if found.left:
        first = found.left[0]
        return NothingToUndoError(
            f"no device of {name} can go back: {first.device}, 1 of {len(found.left)}, runs {first.runs}; {first.reason}",
            next_step="choose what they should run: `edgectl deploy NAME@VERSION --to SELECTOR`",
        )
    if open_now:
        under_way = open_now[0]
        return NothingToUndoError(
            f"there is nothing to undo: {under_way.release} is being rolled out, and no device was switched to it yet",
            next_step=f"end it: `edgectl rollout abort {under_way.id}`; "
            f"or name the release that devices run: `edgectl undo {name}@VERSION`",
        )
    return NothingToUndoError(
        f"there is nothing to undo: no device should run {name}",
        next_step="`edgectl model list` shows the models, `edgectl release devices NAME@VERSION` where a release runs",
    )
