"""Aliases: names of releases that move (`digits@prod`). Thread-safe; calls block; every write joins the caller's transaction.

- An alias belongs to a model and points at one of its releases. What was rolled out does not follow when it moves: anyone who takes
  `name@alias` looks it up once.
- An alias of a release that is withdrawn later stays and is refused wherever it is used; none is set to a withdrawn one.
- No alias is called like a version of its model, and no version like an alias: `name@x` means one thing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import ModelName, ReleaseRef, Version
from edgefleet_server.db.database import Database
from edgefleet_server.registry import store
from edgefleet_server.registry.errors import (
    AliasIsVersionError,
    AliasUnknownError,
    BadAliasError,
    ModelUnknownError,
    ReleaseUnknownError,
    VersionIsAliasError,
    withdrawn_error,
)
from edgefleet_server.registry.model import AliasView
from edgefleet_server.registry.tables import AliasRow

_ALIAS: Final = re.compile(r"[a-z][a-z0-9._-]{0,62}")


class AliasBook:
    """Sets, removes and looks up aliases."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def of(self, model: str) -> list[AliasView]:
        """Return the aliases of a model by name. Raises ModelUnknownError."""
        with self._db.read() as session:
            _check_model(session, model)
            return [_view(row) for row in store.aliases(session, [model])]

    def get(self, model: str, alias: str, *, lock: bool = False) -> AliasView:
        """Return one alias; `lock` holds it until the caller's transaction ends. Raises AliasUnknownError."""
        with self._db.session() if lock else self._db.read() as session:
            row = store.find_alias(session, model, alias, lock=lock)
            if row is None:
                raise _unknown(model, alias)
            return _view(row)

    def set(self, model: ModelName, alias: str, version: Version, by: str) -> tuple[AliasView, bool]:
        """Point an alias at a release; return it and whether it is new.

        Raises BadAliasError, AliasIsVersionError, ReleaseUnknownError, ReleaseWithdrawnError, ModelUnknownError.
        """
        if not _ALIAS.fullmatch(alias):
            raise BadAliasError(
                f"{alias[:80]!r} cannot be an alias",
                next_step="use lower-case letters, digits, '.', '_' and '-', a letter first, at most 63",
            )
        with self._db.session() as session:
            _check_model(session, model)
            if store.find_release(session, ReleaseRef(model, Version(alias))) is not None:
                raise AliasIsVersionError(
                    f"{model}@{alias} is a version of {model}, so it cannot be an alias",
                    next_step="choose another name",
                )
            release = store.lock_shared(session, ReleaseRef(model, version))
            if release is not None and release.withdrawn_at is not None:
                raise withdrawn_error(ReleaseRef(model, version), release.withdrawn_reason)
            if release is None:
                raise ReleaseUnknownError(
                    f"there is no release {model}@{version}", next_step="`edgectl release list` shows all releases"
                )
            row = store.find_alias(session, model, alias, lock=True)
            is_new = row is None
            row = row or AliasRow(model=model, alias=alias, version=version, set_at=self._clock.now(), set_by=by[:80])
            if row.version != version:
                row.version, row.set_at, row.set_by = version, self._clock.now(), by[:80]
            session.add(row)
            session.flush()
            return _view(row), is_new

    def remove(self, model: str, alias: str) -> None:
        """Remove an alias. Raises AliasUnknownError."""
        with self._db.session() as session:
            if not store.remove_alias(session, model, alias):
                raise _unknown(model, alias)

    def resolve(self, ref: ReleaseRef) -> ReleaseRef:
        """Return the release that `name@version` or `name@alias` means; what is neither comes back as it is."""
        with self._db.read() as session:
            if store.find_release(session, ref) is not None:
                return ref
            row = store.find_alias(session, ref.model, ref.version)
            return ref if row is None else ReleaseRef(ref.model, Version(row.version))


def by_version(session: Session, models: Sequence[str]) -> Mapping[tuple[str, str], list[str]]:
    """Return the aliases of releases, by (model, version)."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in store.aliases(session, models):
        found.setdefault((row.model, row.version), []).append(row.alias)
    return found


def by_model(session: Session, models: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Return the version of each alias, by model."""
    found: dict[str, dict[str, str]] = {}
    for row in store.aliases(session, models):
        found.setdefault(row.model, {})[row.alias] = row.version
    return found


def check_version(session: Session, ref: ReleaseRef) -> None:
    """Raise VersionIsAliasError when a new version is called like an alias of its model."""
    row = store.find_alias(session, ref.model, ref.version)
    if row is not None:
        raise VersionIsAliasError(
            f"{ref.version!r} is an alias of {ref.model} (for {row.version}), so it cannot be a version",
            next_step="publish under another version, or remove the alias first",
        )


def _check_model(session: Session, model: str) -> None:
    if store.find_model(session, model) is None:
        raise ModelUnknownError(f"there is no model {model!r}", next_step="`edgectl model list` shows all")


def _unknown(model: str, alias: str) -> AliasUnknownError:
    return AliasUnknownError(
        f"{model[:80]} has no alias {alias[:80]!r}", next_step=f"`edgectl model show {model[:80]}` shows its aliases"
    )


def _view(row: AliasRow) -> AliasView:
    return AliasView(row.model, row.alias, row.version, f"{row.model}@{row.version}", row.set_at, row.set_by)
