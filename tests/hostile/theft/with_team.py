"""What a thief of a whole server can do where the holders of root and targets gave the model to its team: 2 of 3 sign it.

The thief has the key folder, the database, all that is sent, and in some attempts one key of the team, or all keys of another model's team.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented there, but not in __all__
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ModelName
from edgefleet_server.signing import store
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.repository import SERIALIZER
from edgefleet_server.signing.teams.role_metadata import delegate
from tests.hostile.device.forge import MODEL, PROFILE
from tests.hostile.theft import after_ceremony
from tests.hostile.theft.after_ceremony import EVIL, GOOD, Stolen, outcome
from tests.hostile.theft.device import bundle
from tests.support.holders import answer
from tests.support.teams import form_team, member, team_answer

ROLE: Final = f"m.{MODEL}"
NEW: Final = ModelName("words")
BAD: Final = "1.1.0"


class Taught(Stolen):
    """The server after its ceremony, with a team for the model and one for another, which signs nothing else and no new models."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.team = [member(), member(is_ecdsa=True), member()]
        self.others = [member(), member()]
        for model, team in ((MODEL, self.team), ("faces", self.others)):
            form_team(self.house.signing, model, team, 2, "close")
            asked = self.house.signing.ceremony.waiting()
            assert asked is not None
            self.house.signing.ceremony.take(asked.id, [answer(asked, self.holders[one]) for one in ("ben", "carl")])
        self.house.signing.teams.finish()
        self.by_team(BAD)
        assert self.house.signing.withdraw_targets(TargetWithdrawal(MODEL, (), [BAD]))
        self.before = self.today(ROLE)
        self.sign_waiting()
        assert self.order(GOOD) == "", "the device follows"

    def by_team(self, version: str) -> str:
        """Publish a release as it is done: the server converts, the team signs; return what the device says."""
        ref = self.house.release(f"{MODEL}@{version}", bundles={PROFILE: bundle(version)})
        self.house.jobs.jobs.pop(ref, None)
        self.house.registry.refresh_state(ref)
        self.house.signing.teams.ask_release(MODEL, version)
        self.sign_waiting()
        return self.order(version)

    def sign_waiting(self) -> None:
        """Let two of the team sign what waits."""
        waiting = self.house.signing.teams.waiting(MODEL)
        assert waiting is not None
        self.house.signing.teams.take(waiting.id, team_answer(waiting, *self.team[1:]))

    def forge(self, keys: Sequence[CryptoSigner], *, above: int = 10) -> str:
        """Put a bundle of the thief's into the model's role, sign it with these keys, and order it."""
        forged = copy.deepcopy(self.today(ROLE))
        path, data = f"{MODEL}/{EVIL}/{PROFILE}.bundle", bundle(EVIL)
        known = next(iter(forged.signed.targets.values()))
        one = copy.deepcopy(known)
        one.path, one.length, one.hashes = path, len(data), {"sha256": sha256_hex(data)}
        forged.signed.targets[path] = one
        forged.signed.version += above
        return self.serve(forged, keys) or self.order(EVIL)

    def serve(self, file: Metadata[Targets], keys: Sequence[CryptoSigner]) -> str:
        """Store a file of the model's role, signed with these keys, and let snapshot and timestamp name it."""
        file.signatures.clear()
        for key in keys:
            file.sign(key, append=True)
        self._name(file)
        return ""

    def _name(self, file: Metadata[Targets]) -> None:
        with self.house.db.session() as session:
            version = file.signed.version
            if store.version_of(session, ROLE, version) is None:
                store.put(session, ROLE, version, file.to_bytes(SERIALIZER), self.house.clock.now())
            self.thief._repository.publish(session, {}, self.house.clock.now(), given={ROLE: version})

    def redelegate(self) -> str:
        """Let `releases`, whose key the server has, delegate the model to the thief, beside what targets say."""
        with self.house.db.session() as session:
            releases = self.thief._repository.load(session, "releases")
            delegate(releases, ROLE, self.mine.public_key, [f"{MODEL}/*/*"])
            self.thief._repository.publish(session, {"releases": releases}, self.house.clock.now())
        return self.forge([self.mine])

    def new_model(self) -> str:
        """Sign a model that the fleet has never had, and order it."""
        role = f"m.{NEW}"
        data = bundle(EVIL)
        path = f"{NEW}/{EVIL}/{PROFILE}.bundle"
        with self.house.db.session() as session:
            now, repository = self.house.clock.now(), self.thief._repository
            releases, signed = repository.load(session, "releases"), Targets(version=1)
            one = copy.deepcopy(next(iter(self.today(ROLE).signed.targets.values())))
            one.path, one.length, one.hashes = path, len(data), {"sha256": sha256_hex(data)}
            signed.targets[path] = one
            delegate(releases, role, self.thief._ring.prepare(role), [f"{NEW}/*/*"])
            repository.publish(session, {"releases": releases, role: signed}, now)
        return self.order(EVIL, data, NEW)

    def older(self) -> str:
        """Name the model's role of before the withdrawal again, and order what was withdrawn."""
        self._name(self.before)
        return self.order(BAD)


ONE_OF_TEAM: Final = "signs the model's role with all keys of the server and one of the team's"
REDELEGATED: Final = "lets the server's key of releases delegate the model to a key of its own"
NEW_MODEL: Final = "signs a new model with the server's keys"
ATTEMPTS: Final[Mapping[str, Callable[[Taught], str]]] = {
    "signs the model's role with all keys of the server": lambda v: v.forge(v.server_keys()),
    ONE_OF_TEAM: lambda v: v.forge([*v.server_keys(), v.team[0]]),
    "signs the model's role with one key of the team, twice": lambda v: v.forge([v.team[0], v.team[0]]),
    "signs the model's role with all keys of another model's team": lambda v: v.forge([*v.server_keys(), *v.others]),
    REDELEGATED: Taught.redelegate,
    NEW_MODEL: Taught.new_model,
    "names the model's role of before a withdrawal": Taught.older,
    **{f"{what}, with a team": attempt for what, attempt in after_ceremony.ATTEMPTS.items()},
}
"""What must be refused."""


def with_team(attempts: Collection[str] = ATTEMPTS.keys()) -> dict[str, Any]:
    """Make attempts, each on a server and a device of its own; return what came of them, and of a release that the team signed."""
    rows = {what: outcome(ATTEMPTS[what], Taught) for what in attempts}
    return {
        "tried": rows,
        "unauthorized_installs": sum(not code for code in rows.values()),
        "by_the_team": outcome(lambda v: v.by_team("1.2.0"), Taught) or "taken",
    }
