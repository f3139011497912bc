"""What the releases side has withdrawn: `custom` of the role `m.<model>`, together with what this device knew of it before (ADR 0114).

1. Two rules per model: `withdrawn` names releases by version, and `sec_floor` shuts out all with a lower security version.
2. The floor is the highest of the signed role's, the document's and this device's own. A version that was withdrawn once stays so here.
3. What names a moment that has not come (later than the timestamp expires) was not signed in good order: security versions are unix
   seconds, so nobody can shut out what is not published yet.
4. Only what is named counts. A target that the repository does not have is no proof: a server that was restored has lost some too.
"""

from collections.abc import Mapping

import msgspec

from edgefleet_agent.install.records import ShutOut, SlotInfo, WithdrawnSlot
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.verifier.errors import (
    MetadataError,
    ReleaseWithdrawnError,
    SecurityFloorError,
    TransportError,
)
from edgefleet_agent.verifier.floor import Floor
from edgefleet_agent.verifier.repository import Repository
from edgefleet_protocol.errors import BadMessageError, EdgefleetError
from edgefleet_protocol.ids import parse_target_path

MAX_VERSIONS = 1_024
"""How many withdrawn versions of a model a device remembers, the newest ones: the repository names none of the others either."""


class Withdrawals:
    """What is shut out of each model, while one document is verified against one view of the repository."""

    def __init__(self, repository: Repository, floor: Floor, asked: Mapping[str, int]) -> None:
        """Begin with what the device knew. asked: the document's `sec_floor`. Raises BadMessageError for one that has not come yet."""
        latest_s = repository.latest_s()
        for model, least in asked.items():
            if least > latest_s:
                raise BadMessageError(f"the document's sec_floor {least} of {model} is a moment that has not come yet")
        names = {*floor.sec, *floor.withdrawn, *asked}
        self._repository = repository
        self._known = {model: joined(rules_of(floor, model), ShutOut(sec_floor=asked.get(model, 0))) for model in names}
        self._asked_for: dict[str, MetadataError | None] = {}

    def of(self, model: str) -> ShutOut:
        """Return what is shut out of a model, its role loaded. Raises MetadataError, TransportError."""
        if model not in self._asked_for:
            self._asked_for[model] = None
            try:
                self._known[model] = joined(self._known.get(model, ShutOut()), self._repository.shut_out(model))
            except MetadataError as error:
                self._asked_for[model] = error
        if (refused := self._asked_for[model]) is not None:
            raise refused
        return self._known.get(model, ShutOut())

    def all(self) -> dict[str, ShutOut]:
        """Return what is known by now of all models: to be remembered."""
        return {model: rules for model, rules in self._known.items() if rules != ShutOut()}

    def check(self, target: str, sec_version: int) -> None:
        """Raise ReleaseWithdrawnError or SecurityFloorError when a bundle is shut out; MetadataError, TransportError as `of`."""
        refuse_shut_out(self.of(parse_target_path(target)[0]), target, sec_version)

    def in_slots(self, slots: Slots) -> list[WithdrawnSlot]:
        """Return which bundles in the device's slots are shut out. Raises TransportError."""
        return [one for model, info in slots.filled() if (one := self._withdrawn(model, info)) is not None]

    def _withdrawn(self, model: str, info: SlotInfo) -> WithdrawnSlot | None:
        try:
            signed = self._repository.sec_version(info.target)
            self.check(info.target, max(info.sec_version, signed))
        except (ReleaseWithdrawnError, SecurityFloorError) as error:
            return WithdrawnSlot(model=model, target=info.target, sha256=info.sha256, reason=error.message)
        except TransportError:
            raise
        except EdgefleetError:  # its role is refused: what the device knew goes on to count
            return self._by_own_floor(model, info)
        return None

    def _by_own_floor(self, model: str, info: SlotInfo) -> WithdrawnSlot | None:
        try:
            refuse_shut_out(self._known.get(model, ShutOut()), info.target, info.sec_version)
        except EdgefleetError as error:
            return WithdrawnSlot(model=model, target=info.target, sha256=info.sha256, reason=error.message)
        return None


def refuse_shut_out(rules: ShutOut, target: str, sec_version: int) -> None:
    """Raise ReleaseWithdrawnError or SecurityFloorError when these rules shut out a bundle."""
    version = parse_target_path(target)[1]
    if version in rules.versions:
        raise ReleaseWithdrawnError(f"{target} belongs to a release that was withdrawn")
    if sec_version < rules.sec_floor:
        raise SecurityFloorError(
            f"security version {sec_version} of {target} is below this device's floor {rules.sec_floor}"
        )


def joined(known: ShutOut, more: ShutOut) -> ShutOut:
    """Return both: the higher floor, and all versions. Nothing that was shut out comes back."""
    if more == ShutOut():
        return known
    fresh = [version for version in more.versions if version not in known.versions]
    versions = [*known.versions, *fresh][-MAX_VERSIONS:]
    return ShutOut(sec_floor=max(known.sec_floor, more.sec_floor), versions=versions)


def remembered(floor: Floor, rules: Mapping[str, ShutOut]) -> Floor:
    """Return the floor with what is shut out."""
    sec = {model: one.sec_floor for model, one in rules.items() if one.sec_floor}
    versions = {model: one.versions for model, one in rules.items() if one.versions}
    return msgspec.structs.replace(floor, sec={**floor.sec, **sec}, withdrawn={**floor.withdrawn, **versions})


def rules_of(floor: Floor, model: str) -> ShutOut:
    """Return what a device's own floor shuts out of a model."""
    return ShutOut(sec_floor=floor.sec.get(model, 0), versions=floor.withdrawn.get(model, []))
