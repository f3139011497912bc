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


class StatementRefusedError(SigningError):
    """The signing process was asked for a signature that the role may not give."""

    code = "signing.statement_refused"
    default_next_step = (
        "see docs/operate/signing-process.md for what each role may say, and the log of the signing process"
    )


class SigningQuotaError(SigningError):
    """The signing process has signed as much in this minute as it may."""

    code = "signing.process_too_many"
    default_next_step = "try again in a minute; look at the log of the signing process for what was signed"


class SigningProcessDownError(SigningError):
    """The signing process does not answer, so nothing can be signed."""

    code = "signing.process_unavailable"
    default_next_step = "try again: a server starts its own signing process again; one that is run apart: `systemctl status edge-signer`"


class KeyRevokedError(SigningError):
    """Signed metadata names a key that was revoked: this database is older than the revocation."""

    code = "signing.key_revoked"


class RootOutdatedError(SigningError):
    """The database lacks the newest root that was published with these keys: it is older than a rotation."""

    code = "signing.root_outdated"
    default_next_step = "restore a backup of the database that was made after the newest change of root"


class RoleOfflineError(SigningError):
    """A role is signed off the server, and what was asked for needs its signature."""

    code = "signing.role_offline"
    default_next_step = "`edgectl key ceremony` shows what waits for signatures, and makes the request"


class BadHolderError(SigningError):
    """Public keys of holders cannot become those of root and targets."""

    code = "signing.bad_holder"
    default_next_step = "give one public.json of each holder, as `edgectl key init --offline --out MEDIUM` wrote them"


class BadAnswerError(SigningError):
    """An answer does not belong to the request that waits, or holds a signature that does not count."""

    code = "signing.bad_answer"
    default_next_step = (
        "sign the newest request: `edgectl key ceremony --out FILE`, then `edgectl key sign FILE --key FOLDER`"
    )


class RequestWaitingError(SigningError):
    """A request waits for signatures already; there is one at a time."""

    code = "signing.request_waiting"
    default_next_step = "have it signed, or drop it: `edgectl key ceremony --cancel`"


class RequestUnknownError(SigningError):
    """No request of this id waits for signatures."""

    code = "signing.request_unknown"
    default_next_step = "`edgectl key ceremony` shows what waits for signatures"


class RequestOutdatedError(SigningError):
    """Root or targets changed after a request was made; its signatures are worth nothing now."""

    code = "signing.request_outdated"
    default_next_step = "drop it and make a new one: `edgectl key ceremony --cancel`, then the command that made it"


class BadKeyOrderError(SigningError):
    """A new key is asked for in no form that devices could verify."""

    code = "signing.bad_key_order"
    default_next_step = "give ed25519 or ecdsa-sha2-nistp256, or the URI of a key with its public key in PEM"


class KeyNotRotatableError(SigningError):
    """The keys of this role are not on a running server."""

    code = "signing.not_rotatable"
    default_next_step = "replace keys of root where they are kept; `edgectl key list` shows the other roles"


class RootOfflineError(SigningError):
    """The change needs a new root, and the root keys are not on this server."""

    code = "signing.root_offline"
    default_next_step = (
        "bring root.pem and root.passphrase back into the key folder for this one operation, then try again"
    )
