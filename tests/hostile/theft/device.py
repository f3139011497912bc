"""A device that runs a good release, with the one that was taken back in its other slot, and the repository that it trusts.

The repository has thresholds and a key per model: root, targets and releases 2 of 3, a key for each model, one each for snapshot,
timestamp and director. All of it is signed here, so that nothing depends on where a server keeps its keys.
"""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Delegations,
    Root,
    Targets,
)

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.install.records import DesiredOk, Wanted
from edgefleet_agent.install.verifier_protocol import Accepted, Fetched, FetchFailed, Refused
from edgefleet_agent.verifier.floor import Floor, FloorFile
from edgefleet_protocol.desired import ModelDesired, Ref
from tests.agent.child import ChildPeer
from tests.agent.worker.models import bundle_bytes, classifier_onnx, nan_onnx
from tests.hostile.device.forge import DEVICE, MODEL, MODEL_ROLE, PROFILE, TARGET_ROLES, Forge, signer
from tests.hostile.device.victim import Victim

OTHER_ROLE = "m.faces"
LIVE, BAD, GOOD = "1.1.0", "1.2.0", "1.3.0"
"""Older and never withdrawn; withdrawn, since it answers NaN; what runs."""
NUMBERS = {LIVE: 1_764_000_100, BAD: 1_764_000_200, GOOD: 1_764_000_300}
NOTHING_NEW = "nothing new"


@cache
def bundle(version: str) -> bytes:
    """Return the bundle of a release: the bad one answers NaN."""
    return bundle_bytes(nan_onnx() if version == BAD else classifier_onnx(), version=version)


def path(version: str) -> str:
    """Return how TUF names a bundle of this version."""
    return f"{MODEL}/{version}/{PROFILE}.bundle"


class Ceremony(Forge):
    """The repository. `role` of the model may say what was withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.keys |= {role: [signer() for _ in range(3)] for role in ("root", "targets", "releases")}
        self.keys |= {MODEL_ROLE: [signer()], OTHER_ROLE: [signer()]}
        self.target_roles = (*TARGET_ROLES, OTHER_ROLE)
        self.roles[OTHER_ROLE] = Targets(version=1, expires=self.until)
        self.roles["root"] = self.root_with(self.keys)
        for role in ("targets", "releases"):
            self.roles[role].delegations = Delegations({}, {})
        self.delegate("targets", "director", "director/*")
        self.delegate("targets", "releases", "*/*/*", threshold=2)
        self.delegate("releases", MODEL_ROLE, f"{MODEL}/*/*")
        self.delegate("releases", OTHER_ROLE, "faces/*/*")
        self.files.clear()
        self.serve("root")
        self.release()

    def root_with(self, keys: dict[str, Any], version: int = 1, threshold: int = 2) -> Root:
        """Return a root that trusts these keys."""
        root = Root(version=version, expires=self.until, consistent_snapshot=True)
        for role in ("root", "targets", "snapshot", "timestamp"):
            for key in keys[role]:
                root.add_key(key.public_key, role)
        root.roles["root"].threshold = root.roles["targets"].threshold = threshold
        return root

    def publish(self, version: str) -> Ref:
        """Sign a release with its security version."""
        ref = self.store(bundle(version), path(version))
        fields = self.roles[MODEL_ROLE].targets[path(version)].unrecognized_fields["custom"]
        fields["sec_version"] = NUMBERS[version]
        self.release(MODEL_ROLE)
        return ref

    def withdraw(self, *versions: str, floor: int = 0) -> None:
        """Take releases out of the model's role and say so there."""
        role = self.roles[MODEL_ROLE]
        for version in versions:
            role.targets.pop(path(version), None)
        role.unrecognized_fields["custom"] = {"withdrawn": list(versions), "sec_floor": floor}
        self.release(MODEL_ROLE)


class Robbed(Victim):
    """The device. `before`: what the repository served when the bad release was still good; `old`: the document that asked for it."""

    def __init__(self, state: Path, *, own_process: bool = False, told: bool = True) -> None:
        """Bring the device to where it stands. told: it has seen that the bad release was withdrawn."""
        self.forge: Ceremony = Ceremony()
        ChildPeer.__init__(self, state, DEVICE, self.forge.pinned)
        self._own_process = own_process
        self.gen = 10
        self.live, self.bad = self.forge.publish(LIVE), self.forge.publish(BAD)
        self.old = self.document(self.bad)
        self.bad_wanted = self._install(self.old, "B")
        self.before = dict(self.forge.files)
        self.good = self.forge.publish(GOOD)
        self._install(self.document(self.good), "A")
        self.forge.withdraw(BAD)
        self.ref = self.good
        if told:
            self._install(self.document(self.good), "A")

    def document(self, ref: Ref, **fields: Any) -> bytes:
        """Return the next document, signed by the director."""
        self.gen += 1
        return self.forge.sign(self.forge.desired(self.gen, ref, **fields))

    def _install(self, raw: bytes, slot: str) -> Wanted:
        answer, desired = self.verify(raw)
        assert isinstance(answer, Accepted), answer
        assert desired is not None
        (wanted,) = desired.wanted
        assert isinstance(self.install(wanted, slot), Fetched)
        return wanted

    def attempt(self, raw: bytes) -> str:
        """Send an envelope and let agentd act on what came of it: "" when that brings in a bundle that nobody wanted here."""
        answer, desired = self.verify(raw)
        if isinstance(answer, Refused):
            return answer.code
        assert desired is not None
        asked = [*desired.wanted, *(one.wanted for one in desired.candidates)]
        strange = [one for one in asked if one.sha256 != self.good.sha256]
        refused = [*desired.refused, *desired.refused_candidates]
        return self.fetch(strange[0]) if strange else refused[0].code if refused else NOTHING_NEW

    def fetch(self, wanted: Wanted) -> str:
        """Let agentd fetch a bundle into its idle slot; "" when the slot is good afterwards."""
        answer = self.install(wanted, "B")
        return answer.code if isinstance(answer, FetchFailed) else ""

    def order(self, ref: Ref, **fields: Any) -> str:
        """Order a bundle with the director's key."""
        return self.attempt(self.document(ref, **fields))

    def beside(self, ref: Ref) -> str:
        """Order a bundle as the candidate of the good one."""
        return self.order(self.good, models={MODEL: ModelDesired(active=self.good, candidate=ref, mode="shadow")})

    def replayed(self, raw: bytes, files: dict[str, bytes]) -> str:
        """Serve these files instead of today's, and send an envelope."""
        self.meta = lambda name: files.get(name) if name.endswith(".json") else self.honest_meta(name)
        return self.attempt(raw)

    def lose(self, *names: str) -> None:
        """Tear files of the device's state, or take folders away."""
        for name in names:
            where = self.state / name
            if where.is_dir():
                shutil.rmtree(where)
            else:
                where.write_bytes(b"torn")

    def floor(self) -> Floor:
        """Return what the device remembers."""
        return FloorFile(self.state).floor

    def facts(self) -> DesiredOk:
        """Return what the install child verified last."""
        found = read_record(DesiredOk, self.state / "desired.ok")
        assert found is not None
        return found


Steal = Callable[[Robbed], str]
