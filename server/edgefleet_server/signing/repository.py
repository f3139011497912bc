"""The TUF repository: signs metadata in the shape of docs/protocol/manifest.md and keeps it in the database.

It is the shell around python-tuf; `store` has the SQL, `service` the transactions.

Shape: `targets` delegates `director` (`director/*`), `releases` (`*/*/*`) and, from the first head of the audit trail on, `audit`
(`audit/*`); `releases` delegates `m.<model>` (`<model>/*/*`). All delegations are terminating, so a name has one owner. Consistent
snapshots.

Rules:
- Which keys sign a role is what root and delegations say. Each model has a key of its own; one that is older than that shares the key of
  `releases` until that is rotated (ADR 0115).
- Root counts by one. Every other version is max(last + 1, unix seconds), so that a server restored from an old backup
  still moves forward; what clients have seen of the lost one is outrun once they agree on it (`fast_forward_recovery`).
- A role that root says is signed off the server is signed by nobody here: its file comes from the ceremony (ADR 0116). Nor is that of a
  model with a team, which `targets` delegates itself, before `releases`: its file comes from the team (ADR 0127).
- A changed role, the snapshot that names it and the timestamp that names that snapshot are one transaction.
- A target path that is signed never changes its bytes, but for the newest head of the audit trail. One that was removed is not signed
  again: the registry sees to that.
- A release's security version is when its first bundle was signed, unix seconds: it rises, also after an old backup was restored. Older
  bundles have none, until a floor is first set for their model (ADR 0114).
- `custom` of a model's role says what was withdrawn: `withdrawn`, versions, and `sec_floor`. Neither ever shrinks.
- A head of the audit trail alone is not announced to devices, which have no use for it: its timestamp names the one that they know
  (`ANNOUNCED`). It goes out with the next other change, or when that one has passed half of its life. Until then the snapshot that it
  names is kept.
- A role whose last target was removed stays, since clients refuse a snapshot that names fewer roles. It is marked as emptied here:
  without the mark it is one that devices knew before this server was restored.
- Source: TUF specification 1.0.31, sections 4 and 5.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlmodel import Session
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # documented there, but not in __all__
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edgefleet_ceremony.root_fields import OFFLINE_ROLES, offline_roles
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.signing import store
from edgefleet_server.signing.errors import (
    RepositoryMissingError,
    RoleOfflineError,
    SigningError,
    TargetExistsError,
)
from edgefleet_server.signing.fast_forward_recovery import (
    ResignPlan,
    SignedVersions,
    VersionsSeen,
    next_version,
    resign_plan,
)
from edgefleet_server.signing.keys.key_keeper import KeyKeeper, check_keys, signers
from edgefleet_server.signing.keys.role_keys import RoleKeys
from edgefleet_server.signing.named_files import release_numbers
from edgefleet_server.signing.named_files.release_numbers import TargetWithdrawal
from edgefleet_server.signing.role_lives import life_of
from edgefleet_server.signing.teams.role_metadata import (
    EVERY_MODEL,
    delegate,
    expiry,
    is_signed,
    may_sign_as_server,
    take_from_server,
    team_roles,
)
from edgefleet_server.signing.trust import MODEL_PREFIX

KEPT_FOR: Final = timedelta(days=1)
EMPTIED: Final = "x-edgefleet-emptied"
ANNOUNCED: Final = "x-edgefleet-announced"
"""Field of a timestamp that is not announced: version of the one that is."""
CAN_BE_OFFLINE: Final = frozenset(OFFLINE_ROLES) - {"root"}

_PARENTS: Final = ("targets", "releases")
_NOT_TARGETS: Final = frozenset({"root", "snapshot", "timestamp"})
_log = logging.getLogger(__name__)
SERIALIZER = JSONSerializer(compact=True)


class TufRepository:
    """Changes TUF metadata inside the caller's session; the caller commits."""

    def __init__(self, ring: KeyKeeper) -> None:
        """Use the keys of `ring` for every signature."""
        self._ring = ring
        self._left_out: set[str] = set()
        self._known_offline: tuple[bytes, frozenset[str]] = b"", frozenset()

    def create(self, session: Session, now: datetime) -> None:
        """Sign the first version of everything. The tables must be empty."""
        store.take_turn(session)
        root_signer = self._ring.root_signer()
        root = Root(version=1, expires=expiry("root", now), consistent_snapshot=True)
        root.add_key(root_signer.public_key, "root")
        for role in ("targets", "snapshot", "timestamp"):
            root.add_key(self._ring.prepare(role), role)
        root_md = Metadata(root)
        root_md.sign(cast("Any", root_signer))
        store.put(session, "root", 1, root_md.to_bytes(SERIALIZER), now)
        targets = Targets(version=1, expires=expiry("targets", now), delegations=Delegations({}, {}))
        delegate(targets, "director", self._ring.prepare("director"), ["director/*"])
        delegate(targets, "releases", self._ring.prepare("releases"), [EVERY_MODEL])
        changed: dict[str, Targets] = {
            "targets": targets,
            "releases": Targets(version=1, delegations=Delegations({}, {})),
            "director": Targets(version=1),
        }
        self.publish(session, changed, now)

    def add_target(
        self, session: Session, path: str, length: int, sha256: str, custom: Mapping[str, Any], now: datetime
    ) -> bool:
        """Sign `path` = «model»/«version»/«profile».bundle; return False if exactly this was signed before.

        length: bytes of the bundle. Raises TargetExistsError when the path is signed with another digest.
        """
        store.take_turn(session)
        model = path.split("/", 1)[0]
        role = f"m.{model}"
        changed: dict[str, Targets] = {}
        releases, targets = self.load(session, "releases"), self.load(session, "targets")
        self._refuse_team(role, targets)
        if not may_sign_as_server(targets, model):
            raise RoleOfflineError(
                f"this server may not sign bundles of {model}: it signs no new models",
                next_step=f"give the model to a team, which signs it: `edgectl key team {model} --key FILE`",
            )
        if releases.delegations is None or role not in (releases.delegations.roles or {}):
            delegate(releases, role, self._ring.prepare(role), [f"{model}/*/*"])
            changed["releases"] = releases
            model_role = Targets(version=1)
        else:
            model_role = self.load(session, role)
        known = model_role.targets.get(path)
        if known is not None:
            if known.hashes.get("sha256") == sha256 and known.length == length:
                return False
            raise TargetExistsError(
                f"{path} is signed already with sha256 {known.hashes.get('sha256')}; it is never replaced",
                next_step="publish the new bytes under a new version",
            )
        sec_version = release_numbers.of_new(model_role, path, now)
        whole = {**custom, **({release_numbers.FIELD: sec_version} if sec_version else {})}
        model_role.targets[path] = TargetFile(length, {"sha256": sha256}, path, unrecognized_fields={"custom": whole})
        changed[role] = model_role
        self.publish(session, changed, now)
        return True

    def remove_targets(self, session: Session, paths: Sequence[str], now: datetime) -> int:
        """Sign these paths' model roles without them; return how many there were. Takes its turn in any case."""
        store.take_turn(session)
        changed: dict[str, Targets] = {}
        removed = 0
        for role in sorted({f"{MODEL_PREFIX}{path.split('/', 1)[0]}" for path in paths}):
            signed = self.load(session, role)
            known = [path for path in paths if path in signed.targets]
            for path in known:
                del signed.targets[path]
            if known:
                removed += len(known)
                changed[role] = signed
            if not signed.targets:
                signed.unrecognized_fields[EMPTIED] = True
        if changed:
            self.publish(session, changed, now)
        return removed

    def announced_timestamp(self, session: Session) -> store.Timed | None:
        """Return the timestamp that devices are sent, None before there is one. Reads one or two small files."""
        newest = store.latest(session, "timestamp")
        if newest is None:
            return None
        # our own file; python-tuf takes ten times as long
        version = json.loads(newest[1])["signed"].get(ANNOUNCED, newest[0])
        return store.timed(session, "timestamp", version) or store.timed(session, "timestamp", newest[0])

    def today(self, session: Session) -> tuple[Metadata[Root], Metadata[Targets]]:
        """Return root and targets as they are, with their signatures."""
        return self._load_any(session, "root"), self._load_any(session, "targets")

    def offline(self, session: Session) -> frozenset[str]:
        """Return the roles that root says are signed off the server. Reads one small file, and parses it when it is another one."""
        found = store.latest(session, "root")
        if found is None or found[1] != self._known_offline[0]:
            self._known_offline = (
                b"" if found is None else found[1],
                offline_roles(self._load_any(session, "root").signed.unrecognized_fields),
            )
        return self._known_offline[1]

    def team_roles(self, session: Session) -> frozenset[str]:
        """Return the roles of models that are signed by their teams. Reads one file."""
        return team_roles(self.load(session, "targets"))

    def newest(self, session: Session, name: str) -> Metadata[Targets] | None:
        """Return the newest file of a role that names targets, None before the first."""
        return None if store.latest(session, name) is None else self._load_any(session, name)

    def publish_signed(
        self,
        session: Session,
        files: Mapping[str, Metadata[Any]],
        now: datetime,
        given: Mapping[str, int] | None = None,
    ) -> None:
        """Store files of root and targets that were signed elsewhere and verified, and name them.

        Roles that targets delegates are signed again where they are new, or have another key from now on. `releases` goes on without the
        models that have a team by now. given: versions of files that teams signed, by role, stored already.
        """
        for name, file in files.items():
            store.put(session, name, file.signed.version, file.to_bytes(SERIALIZER), now)
        targets = self.load(session, "targets")
        changed, teams = self.left_to_server(session, targets), team_roles(targets)
        for name in [
            one for one in (targets.delegations.roles if targets.delegations else None) or () if one not in teams
        ]:
            found = store.latest(session, name)
            if found is None:
                changed[name] = Targets(version=1)
            elif not is_signed(targets, name, Metadata[Any].from_bytes(found[1])):
                changed[name] = self.load(session, name)
        self.publish(session, changed, now, given={**(given or {}), "targets": targets.version})

    def left_to_server(self, session: Session, targets: Targets) -> dict[str, Targets]:
        """Return `releases` without the models that have a team in these targets, where it delegates any of them still."""
        releases = self.load(session, "releases")
        return {"releases": releases} if take_from_server(releases, team_roles(targets)) else {}

    def _refuse_team(self, role: str, targets: Targets) -> None:
        """Refuse to sign what a team signs. Raises RoleOfflineError."""
        if role in team_roles(targets):
            raise RoleOfflineError(
                f"{role} is signed by its team, off this server",
                next_step="the team signs it: `edgectl release sign REF --key FILE`, or `edgectl key team MODEL --renew`",
            )

    def release_numbers(self, session: Session, model: str, made: Mapping[str, datetime]) -> dict[str, int]:
        """Return the security version of each release of a model that is signed or in `made`, which says when each was published."""
        return release_numbers.of_all(self.load(session, f"{MODEL_PREFIX}{model}"), made)

    def withdraw_targets(self, session: Session, withdrawal: TargetWithdrawal, now: datetime) -> bool:
        """Sign a model's role without these bundles, and say in it what was withdrawn; return False when it says so already."""
        store.take_turn(session)
        role = f"{MODEL_PREFIX}{withdrawal.model}"
        if store.latest(session, role) is None:
            return False  # nothing of this model was ever signed here
        signed = self.load(session, role)
        if not release_numbers.withdraw(signed, withdrawal, now):
            return False
        if not signed.targets:
            signed.unrecognized_fields[EMPTIED] = True
        self.publish(session, {role: signed}, now)
        return True

    def resigning(self, session: Session, seen: VersionsSeen, now: datetime) -> ResignPlan | None:
        """Return what must be signed again so that this counts as seen; None when nothing. Signs nothing."""
        ours = self.versions(session)
        empty = len(self.lost_models(session)) if seen.roles.keys() - ours.keys() else 0
        return resign_plan(SignedVersions(ours, empty), seen, now)

    def versions(self, session: Session) -> dict[str, int]:
        """Return the versions of the snapshot and of every role that it names. Reads one file."""
        snapshot = self._load_any(session, "snapshot").signed
        named = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
        return {**named, "snapshot": snapshot.version}

    def outrun(self, session: Session, seen: VersionsSeen, now: datetime) -> ResignPlan | None:
        """Sign again what `resigning` says; return it, None when there was nothing to sign."""
        store.take_turn(session)
        plan = self.resigning(session, seen, now)
        if plan is None:
            return None
        elsewhere = _NOT_TARGETS | self.offline(session) | self.team_roles(session)
        ours = [name for name in store.names(session) if name not in elsewhere]
        names = ours if plan.everything else []
        changed: dict[str, Targets] = {name: self.load(session, name) for name in names}
        if plan.lost:
            releases = changed.setdefault("releases", self.load(session, "releases"))
            for role in [one for one in plan.lost if one not in self.team_roles(session)]:
                delegate(releases, role, self._ring.prepare(role), [f"{role.removeprefix(MODEL_PREFIX)}/*/*"])
                changed[role] = Targets(version=1)
        self.publish(session, changed, now, above=plan.above)
        return plan

    def lost_models(self, session: Session) -> list[str]:
        """Return the models whose role names no bundle although none was removed, sorted. Reads all roles.

        Devices knew them before this server was restored.
        """
        roles = [name for name in store.names(session) if name.startswith(MODEL_PREFIX)]
        signed = {name.removeprefix(MODEL_PREFIX): self.load(session, name) for name in roles}
        return sorted(
            name for name, one in signed.items() if not one.targets and EMPTIED not in one.unrecognized_fields
        )

    def resign_due(self, session: Session, now: datetime, *, force_timestamp: bool) -> bool:
        """Sign again what has passed half of its life; return whether anything was signed.

        force_timestamp: sign the timestamp in any case (at start).
        Root is not renewed here, nor a role whose keys cannot be used here: they are elsewhere, and the rest must not wait for them.
        """
        store.take_turn(session)
        timestamp = self._load_any(session, "timestamp").signed
        keys = self._role_keys(session, {})
        due = {name for name in self.due(session, now) if self._can_sign(keys, name)}
        if due - {"timestamp"}:
            self.publish(session, {name: self.load(session, name) for name in due - {"snapshot", "timestamp"}}, now)
        elif due or force_timestamp:
            check_keys(self._ring.inventory(), keys)
            self._sign_timestamp(session, timestamp.snapshot_meta, now, keys)
        return bool(due) or force_timestamp

    def due(self, session: Session, now: datetime) -> set[str]:
        """Return the roles that are signed here and have passed half of their life. Reads root and timestamp."""
        return {name for name, at in self.resign_times(session).items() if at <= now}

    def resign_times(self, session: Session) -> dict[str, datetime]:
        """Return when each role that is signed here has passed half of its life and is signed again. Reads root and timestamp.

        The timestamp's life is that of the one that devices know.
        """
        made = dict(store.newest_made(session))
        announced = self.announced_timestamp(session)
        if announced is not None:
            made["timestamp"] = announced.made_at
        elsewhere = self.offline(session) | {"root"} | self.team_roles(session) if "root" in made else frozenset()
        return {name: made_at + life_of(name) / 2 for name, made_at in made.items() if name not in elsewhere}

    def root_expires(self, session: Session) -> datetime:
        """Return when the newest root expires (aware UTC)."""
        expires: datetime = self._load_any(session, "root").signed.expires
        return expires

    def role_keys(self, session: Session) -> RoleKeys:
        """Return which keys may sign what today. Reads three files."""
        return self._role_keys(session, {})

    def director_keys(self, session: Session) -> tuple[list[str], int]:
        """Return the ids of the director's keys, and how many must sign. Reads one small file."""
        found = store.latest(session, "targets")
        if found is None:
            raise _missing("targets")
        # our own file, as `announced_timestamp` reads it
        delegated = json.loads(found[1])["signed"]["delegations"]["roles"]
        director = next(one for one in delegated if one["name"] == "director")
        return list(director["keyids"]), int(director["threshold"])

    def publish(
        self,
        session: Session,
        changed: Mapping[str, Targets],
        now: datetime,
        *,
        above: int = 0,
        announce: bool = True,
        given: Mapping[str, int] | None = None,
    ) -> None:
        """Sign what changed, a snapshot of it and of what was `given` already signed (versions by role), and a timestamp.

        The caller has its turn.
        """
        keys = self._role_keys(session, changed)
        check_keys(self._ring.inventory(), keys)
        for name in changed:
            self._refuse_team(name, keys.parents[0])
        found = store.latest(session, "snapshot")
        snapshot = Snapshot(version=1) if found is None else Metadata[Snapshot].from_bytes(found[1]).signed
        for name, signed in changed.items():
            self._sign(session, name, signed, now, above, keys)
            store.prune(session, name, below=signed.version, older_than=now - KEPT_FOR)
            snapshot.meta[f"{name}.json"] = MetaFile(signed.version)
        for name, version in (given or {}).items():
            snapshot.meta[f"{name}.json"] = MetaFile(version)
        data = self._sign(session, "snapshot", snapshot, now, above, keys)
        named = MetaFile(snapshot.version, len(data), {"sha256": sha256_hex(data)})
        known = None if announce else self.announced_timestamp(session)
        self._sign_timestamp(session, named, now, keys, above, known)

    def _sign_timestamp(
        self,
        session: Session,
        snapshot_meta: MetaFile,
        now: datetime,
        keys: RoleKeys,
        above: int = 0,
        known: store.Timed | None = None,
    ) -> None:
        """Sign the next timestamp. known: what devices go on with, where this one is not announced; all that it names stays."""
        found = store.latest(session, "timestamp")
        signed = Timestamp(version=1 if found is None else found[0], snapshot_meta=snapshot_meta)
        if known is not None:
            signed.unrecognized_fields[ANNOUNCED] = known.version
        self._sign(session, "timestamp", signed, now, above, keys)
        if known is None:
            for name, version in (("snapshot", snapshot_meta.version), ("timestamp", signed.version)):
                store.prune(session, name, below=version, older_than=now - KEPT_FOR)

    def _sign(
        self,
        session: Session,
        name: str,
        signed: Targets | Snapshot | Timestamp,
        now: datetime,
        above: int,
        keys: RoleKeys,
    ) -> bytes:
        """Give `signed` its next version, higher than `above`, and its expiry, sign and store it; return the file.

        Raises RoleOfflineError.
        """
        if name in CAN_BE_OFFLINE and store.latest(session, name) is not None and name in self.offline(session):
            raise RoleOfflineError(f"{name} is signed by its holders, off this server: this waits for their signatures")
        signed.version = next_version(signed.version, above, now)
        signed.expires = expiry(name, now)
        metadata: Metadata[Any] = Metadata(signed)
        for signer in signers(self._ring, name, *keys.of(name)):
            try:
                metadata.sign(cast("Any", signer), append=True)
            except UnsignedMetadataError as error:  # the library's, around what our signer said
                raise (error.__cause__ if isinstance(error.__cause__, SigningError) else error) from None
        data = metadata.to_bytes(SERIALIZER)
        store.put(session, name, signed.version, data, now)
        return data

    def _role_keys(self, session: Session, changed: Mapping[str, Targets]) -> RoleKeys:
        """Return which keys may sign what, once `changed` is published with the rest."""
        root = self._load_any(session, "root").signed
        parents = [
            changed[name] if name in changed else self.load(session, name)
            for name in _PARENTS
            if name in changed or store.latest(session, name) is not None
        ]
        return RoleKeys(root, parents)

    def _can_sign(self, keys: RoleKeys, name: str) -> bool:
        try:
            for signer in signers(self._ring, name, *keys.of(name)):
                signer.probe()  # a place that is away must not keep the rest waiting
        except SigningError as error:
            if name not in self._left_out:
                self._left_out.add(name)
                _log.warning("a role is not signed again: %s", error.message, extra={"role": name})
            return False
        self._left_out.discard(name)
        return True

    def load(self, session: Session, name: str) -> Targets:
        """Return the newest content of a role that names targets. Raises RepositoryMissingError."""
        signed = self._load_any(session, name).signed
        assert isinstance(signed, Targets), name
        return signed

    def _load_any(self, session: Session, name: str) -> Metadata[Any]:
        found = store.latest(session, name)
        if found is None:
            raise _missing(name)
        return Metadata[Any].from_bytes(found[1])


def _missing(name: str) -> RepositoryMissingError:
    return RepositoryMissingError(
        f"the database holds no TUF metadata for {name!r}",
        next_step="run `edgectl server init`, or point the server at the data folder that was initialised",
    )
