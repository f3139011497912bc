"""What can go wrong when keys are made, loaded or used."""

from edgefleet_protocol.errors import EdgefleetError


class SigningError(EdgefleetError):
    """Root of the errors of this feature."""

    code = "signing.failed"


class KeysMissingError(SigningError):
    """The key folder lacks a file that the server needs."""

    code = "signing.keys_unavailable"


class KeysExistError(SigningError):
    """The key folder already holds keys; they are never overwritten."""

    code = "signing.keys_exist"


class KeysUnreadableError(SigningError):
    """A key file is there but does not hold the key it should."""

    code = "signing.keys_unreadable"


class BadCsrError(SigningError):
    """A certificate signing request is malformed, its signature is wrong or its key type is not allowed."""

    code = "signing.bad_csr"


class RepositoryMissingError(SigningError):
    """The database holds no TUF metadata yet."""

    code = "signing.repository_unavailable"


class RepositoryUnsoundError(SigningError):
    """Stored TUF metadata does not verify, so that no device takes it."""

    code = "signing.repository_unsound"
    default_next_step = "restore the database from a backup; `edgectl key list` shows the roles"


class RepositoryStaleError(SigningError):
    """Stored TUF metadata has expired; the server signs it again while it runs."""

    code = "signing.repository_stale"
    default_next_step = "check the clock of the server; `edgectl key list` shows when each role ends"


class TargetExistsError(SigningError):
    """A target path is already signed with other bytes; a signed bundle is never replaced."""

    code = "signing.target_exists"


class RoleUnknownError(SigningError):
    """TUF knows no role of this name."""

    code = "signing.role_unknown"
    default_next_step = "`edgectl key list` shows all"


class SignerUriError(SigningError):
    """The place of a private key is given in no form that the server knows."""

    code = "signing.bad_uri"
    default_next_step = "write hsm:…, hv:…, awskms:…, gcpkms:… or azurekms:…, as docs/operate/keys.md shows"


class SignerUnavailableError(SigningError):
    """The HSM or key service that holds a private key does not sign."""

    code = "signing.signer_unavailable"


class KeyRevokedError(SigningError):
    """Signed metadata names a key that was revoked: this database is older than the revocation."""

    code = "signing.key_revoked"


class RootOutdatedError(SigningError):
    """The database lacks the newest root that was published with these keys: it is older than a rotation."""

    code = "signing.root_outdated"
    default_next_step = "restore a backup of the database that was made after the newest change of root"
