"""The list of every secret of a server: what it is, where, how it is kept, since when, and what is wrong with that. Shows no secret."""

import stat
import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import make_url

from edgefleet_server.db.database import Database
from edgefleet_server.encryption import rules, store
from edgefleet_server.encryption.errors import EncryptionError
from edgefleet_server.encryption.key_sources import DEFAULT_FILE, Credential, KeyFile, KeySource
from edgefleet_server.encryption.model import (
    Kept,
    KeyRing,
    SealedColumn,
    SealedValue,
    SecretEntry,
    StoredSecret,
)
from edgefleet_server.encryption.tables import SealingState
from edgefleet_server.setting_sources import credential_file, is_in_environment
from edgefleet_server.settings import ServerSettings, provider_secret, secret_names

_KINDS = {".pem": "private key", ".key": "private key", ".passphrase": "passphrase"}
_ANYBODY = 0o007
_NOT_OWNER = 0o077


def secret_entries(
    settings: ServerSettings, db: Database, source: KeySource, columns: Sequence[SealedColumn], *, is_current: bool
) -> list[SecretEntry]:
    """Return all secrets of a server. is_current: the database has this version's tables; else its secrets are not looked at.

    Reads files, the database and the source of the key; changes nothing.
    """
    ring, key_problem = _ring(source)
    state, stored = _stored(db, columns) if is_current else (None, [])
    entries = [
        _key_entry(source, ring, state, key_problem),
        *_setting_entries(settings),
        *_provider_entries(settings),
        *_file_entries(settings, source),
    ]
    if db.is_sqlite:
        entries += _database_entries(db, state)
    return entries + [_stored_entry(one, ring) for one in stored]


def _ring(source: KeySource) -> tuple[KeyRing | None, str]:
    try:
        return source.read(), ""
    except EncryptionError as error:
        return None, error.message


def _stored(db: Database, columns: Sequence[SealedColumn]) -> tuple[SealingState | None, list[StoredSecret]]:
    with db.read() as session:
        return store.state(session), [secret for one in columns for secret in store.secrets(session, one)]


def _key_entry(source: KeySource, ring: KeyRing | None, state: SealingState | None, problem: str) -> SecretEntry:
    path = source.path if isinstance(source, KeyFile | Credential) else None
    needed = "" if state is None else state.key_id
    if ring is None:
        if not problem and needed:
            problem = f"it is missing; the database is sealed with the key {needed}"
        elif not problem:
            problem = "" if state is None and source.kept is Kept.FILE else "it is missing"
    elif needed and ring.find(needed) is None:
        problem = f"it is another one: the database is sealed with the key {needed}"
    ids = needed if ring is None else ", ".join(one.id for one in ring.keys)
    mask = _NOT_OWNER if isinstance(source, KeyFile) and source.is_own else _ANYBODY
    found = _file("sealing key", path, mask) if path is not None else None
    if found is not None:
        since = state.since if state is not None else found.since
        return SecretEntry(found.what, source.where, source.kept, found.mode, ids, since, problem or found.problem)
    return SecretEntry(
        "sealing key", source.where, source.kept, "", ids, None if state is None else state.since, problem
    )


def _setting_entries(settings: ServerSettings) -> Iterator[SecretEntry]:
    """Yield the settings that are secrets and are set; the sealing key has a line of its own."""
    in_file = _names_in_file(settings)
    for name in secret_names():
        file = getattr(settings, f"{name}_file")
        given = file or credential_file(f"edgefleet.{name}")
        if name == "secrets_key":
            continue
        if getattr(settings, name) is not None:
            if name == "database_url" and not _has_password(settings):
                continue
            if is_in_environment(name):
                yield SecretEntry(f"setting {name}", "the environment", Kept.ENVIRONMENT)
            elif name in in_file:
                path = settings.data_dir / "server.toml"
                yield _file(f"setting {name}", path, _NOT_OWNER) or SecretEntry(name, str(path), Kept.FILE)
        elif given is not None:
            missing = SecretEntry(f"setting {name}", str(given), Kept.FILE, problem="the file cannot be read")
            yield _file(f"setting {name}", given, _ANYBODY) or missing


def _provider_entries(settings: ServerSettings) -> Iterator[SecretEntry]:
    """Yield the client secrets of identity providers."""
    for one in settings.identity_providers:
        what = f"client secret of {one.name}"
        given = one.client_secret_file or credential_file(f"edgefleet.{provider_secret(one)}")
        if one.client_secret is not None:
            if is_in_environment("identity_providers"):
                yield SecretEntry(what, "the environment", Kept.ENVIRONMENT)
            else:
                path = settings.data_dir / "server.toml"
                yield _file(what, path, _NOT_OWNER) or SecretEntry(what, str(path), Kept.FILE)
        elif given is not None:
            missing = SecretEntry(what, str(given), Kept.FILE, problem="the file cannot be read")
            yield _file(what, given, _ANYBODY) or missing


def _names_in_file(settings: ServerSettings) -> frozenset[str]:
    try:
        return frozenset(tomllib.loads((settings.data_dir / "server.toml").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return frozenset()


def _has_password(settings: ServerSettings) -> bool:
    return make_url(settings.database).password is not None


def _file_entries(settings: ServerSettings, source: KeySource) -> Iterator[SecretEntry]:
    folder = settings.keys_dir
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    own = source.path if isinstance(source, KeyFile) else None
    for path in names:
        if path.is_file() and path.suffix in _KINDS and path != own:
            is_sealing = path.name == DEFAULT_FILE
            found = _file("sealing key, not in use" if is_sealing else _KINDS[path.suffix], path, _NOT_OWNER)
            if found is not None:
                yield found
    others = (("first admin token", settings.data_dir / "admin.token"), ("TLS key of the API", settings.api_tls_key))
    for what, given in others:
        found = (
            None if given is None else _file(what, given, _NOT_OWNER if given.parent == settings.data_dir else _ANYBODY)
        )
        if found is not None:
            yield found


def _database_entries(db: Database, state: SealingState | None) -> Iterator[SecretEntry]:
    name = db.engine.url.database
    if not name or name == ":memory:":
        return
    for ending in ("", "-wal", "-shm"):
        found = _file("database, with sealed secrets", Path(name + ending), _NOT_OWNER)
        if found is None:
            continue
        problem = found.problem
        if not ending and not problem and state is not None and state.cleaned_at is None:
            problem = "texts from before they were sealed may still be in it; start the server again"
        yield SecretEntry(found.what, found.where, found.kept, found.mode, since=None, problem=problem)


def _stored_entry(one: StoredSecret, ring: KeyRing | None) -> SecretEntry:
    key_id = rules.key_id_of(one.text)
    if key_id is None:
        problem = "it is not sealed; the next start seals it, or `edgectl server seal`"
        return SecretEntry(one.what, str(one.place), Kept.PLAIN, since=one.since, problem=problem)
    problem = f"the key {key_id} is not there" if ring is None else ""
    if ring is not None:
        try:
            rules.open_value(ring, SealedValue(one.place, one.text))
        except EncryptionError as error:
            problem = error.message
    kept = Kept.BROKEN if problem else Kept.SEALED
    return SecretEntry(one.what, str(one.place), kept, key=key_id, since=one.since, problem=problem)


def _file(what: str, path: Path, mask: int) -> SecretEntry | None:
    """Return the line of a file, None when it is not there. mask: bits of its mode that are wrong."""
    try:
        found = path.stat()
    except OSError:
        return None
    mode = stat.S_IMODE(found.st_mode)
    since = datetime.fromtimestamp(found.st_mtime, UTC)
    problem = f"others may use it: `chmod 600 {path}`" if mode & mask else ""
    return SecretEntry(what, str(path), Kept.FILE, f"{mode:04o}", since=since, problem=problem)
