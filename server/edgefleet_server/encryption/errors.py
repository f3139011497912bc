"""What sealing and opening secrets refuse."""

from edgefleet_protocol.errors import EdgefleetError


class EncryptionError(EdgefleetError):
    """Base of all refusals of this feature."""

    code = "encryption.failed"


class KeyMissingError(EncryptionError):
    """There is no sealing key, and the database has secrets that need one."""

    code = "encryption.key_missing"


class KeyWrongError(EncryptionError):
    """The sealing keys that were found are not the one that the secrets are sealed with."""

    code = "encryption.key_wrong"


class KeyUnreadableError(EncryptionError):
    """The sealing key cannot be read where the settings say it is."""

    code = "encryption.key_unreadable"


class FleetKeyMissingError(EncryptionError):
    """There is no fleet key, or this process cannot open it."""

    code = "encryption.fleet_key_missing"


class NotOpenedError(EncryptionError):
    """A stored secret is not what was sealed for its row: it was changed, moved or never sealed."""

    code = "encryption.not_opened"


class KeyChangeRefusedError(EncryptionError):
    """The sealing key cannot be changed from here."""

    code = "encryption.key_change_refused"
