"""Where the sealing key comes from. The first that the settings name is in force:

1. Vault (`secrets_vault_url`), 2. a file (`secrets_key_file`), 3. the systemd credential `edgefleet.secrets_key`, 4. the setting
`secrets_key`, which is for the environment, 5. `keys/secrets.key` in the data folder, which the server makes.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgefleet_server.encryption import rules
from edgefleet_server.encryption.errors import KeyChangeRefusedError, KeyUnreadableError
from edgefleet_server.encryption.model import Kept, KeyRing
from edgefleet_server.encryption.vault_client import VaultClient
from edgefleet_server.setting_sources import credential_file
from edgefleet_server.settings import ServerSettings

CREDENTIAL = "edgefleet.secrets_key"
DEFAULT_FILE = "secrets.key"


class KeySource(Protocol):
    """Where keys are."""

    @property
    def where(self) -> str:
        """The place, for people."""
        ...

    @property
    def kept(self) -> Kept:
        """The kind of place."""
        ...

    def read(self) -> KeyRing | None:
        """Return the keys; None where the server may make the first one. Raises KeyUnreadableError."""
        ...

    def write(self, ring: KeyRing) -> None:
        """Put keys in the place of those there. Raises KeyChangeRefusedError, KeyUnreadableError."""
        ...


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file. is_own: in the data folder, made by the server; else it must be there."""

    path: Path
    is_own: bool = False

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def kept(self) -> Kept:
        """A file."""
        return Kept.FILE

    def read(self) -> KeyRing | None:
        """Return the keys; None where the file of the data folder is not there. Raises KeyUnreadableError."""
        try:
            text = self.path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError as error:
            if self.is_own:
                return None
            raise self._unreadable(error) from error
        except OSError as error:
            raise self._unreadable(error) from error
        return rules.parse_keys(text, self.where)

    def write(self, ring: KeyRing) -> None:
        """Put keys into the file, 0600, all or none of them; it keeps its owner, and the group of one outside the data folder may read on.

        Blocks on fsync. Raises KeyUnreadableError.
        """
        fresh = self.path.with_name(f"{self.path.name}.new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                self._keep_owner(descriptor)
                file.write(rules.key_text(ring))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise KeyUnreadableError(
                f"the sealing key cannot be written to {self.path}: {error.strerror}",
                next_step="let the server's user write there; nothing was changed",
            ) from error

    def _keep_owner(self, descriptor: int) -> None:
        """Let the server's user read what root writes (`sudo edgectl server seal`)."""
        is_there = self.path.exists()
        before = (self.path if is_there else self.path.parent).stat()
        if os.geteuid() == 0:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        if is_there and not self.is_own:
            os.fchmod(descriptor, 0o600 | before.st_mode & stat.S_IRGRP)

    def _unreadable(self, error: OSError) -> KeyUnreadableError:
        return KeyUnreadableError(
            f"the sealing key {self.path} cannot be read: {error.strerror}", next_step=rules.NEXT_FOR_KEY
        )


@dataclass(frozen=True, slots=True)
class Credential:
    """A file that systemd hands over; it comes from outside, so it is never written."""

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return f"systemd credential {self.path}"

    @property
    def kept(self) -> Kept:
        """A file."""
        return Kept.FILE

    def read(self) -> KeyRing | None:
        """Return the keys. Raises KeyUnreadableError."""
        return KeyFile(self.path).read()

    def write(self, ring: KeyRing) -> None:
        """Refuse. Raises KeyChangeRefusedError."""
        raise _from_outside(self.where)


@dataclass(frozen=True, slots=True)
class KeyText:
    """A setting, as a rule from the environment."""

    text: str = field(repr=False)

    @property
    def where(self) -> str:
        """The setting."""
        return "the setting secrets_key"

    @property
    def kept(self) -> Kept:
        """The environment."""
        return Kept.ENVIRONMENT

    def read(self) -> KeyRing | None:
        """Return the keys. Raises KeyUnreadableError."""
        return rules.parse_keys(self.text, self.where)

    def write(self, ring: KeyRing) -> None:
        """Refuse. Raises KeyChangeRefusedError."""
        raise _from_outside(self.where)


@dataclass(frozen=True, slots=True)
class VaultSecret:
    """A secret of Vault, field `key`."""

    client: VaultClient

    @property
    def where(self) -> str:
        """The address."""
        return self.client.url

    @property
    def kept(self) -> Kept:
        """Vault."""
        return Kept.VAULT

    def read(self) -> KeyRing | None:
        """Return the keys. Blocks for Vault. Raises KeyUnreadableError."""
        return rules.parse_keys(self.client.read("key"), self.where)

    def write(self, ring: KeyRing) -> None:
        """Refuse. Raises KeyChangeRefusedError."""
        raise _from_outside(self.where)


def source_of(settings: ServerSettings) -> KeySource:
    """Return the source in force. Reads nothing."""
    if settings.secrets_vault_url:
        token = settings.secret("secrets_vault_token") or ""
        return VaultSecret(VaultClient(settings.secrets_vault_url, token, settings.secrets_vault_ca_file))
    if settings.secrets_key_file is not None:
        return KeyFile(settings.secrets_key_file)
    if (given := credential_file(CREDENTIAL)) is not None:
        return Credential(given)
    if settings.secrets_key is not None:
        return KeyText(settings.secrets_key.get_secret_value())
    return KeyFile(settings.keys_dir / DEFAULT_FILE, is_own=True)


def _from_outside(where: str) -> KeyChangeRefusedError:
    return KeyChangeRefusedError(
        f"the sealing key comes from {where}, where the server cannot change it",
        next_step="there: put a new key (`openssl rand -base64 32`) before the old one, run `edgectl server seal`, then remove the old one",
    )
