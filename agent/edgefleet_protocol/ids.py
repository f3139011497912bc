"""Names and ids, each with one grammar and one parser.

Grammar: model `[a-z0-9][a-z0-9._-]{0,62}`, version `[0-9A-Za-z][0-9A-Za-z._+-]{0,62}`, profile
`[a-z0-9][a-z0-9_-]{0,62}`. A device id is also its MQTT client id and certificate CN: `[a-z0-9][a-z0-9-]{2,62}`.
TUF's own role names cannot be model names, since a model gets the delegated role `m.<model>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from edgefleet_protocol.errors import BadIdError

DeviceId = NewType("DeviceId", str)
ModelName = NewType("ModelName", str)
Version = NewType("Version", str)
ProfileName = NewType("ProfileName", str)
TenantId = NewType("TenantId", str)
RolloutId = NewType("RolloutId", str)

RESERVED_MODEL_NAMES = frozenset({"root", "targets", "snapshot", "timestamp", "director", "releases"})
SERVER_ACCOUNT_PREFIX = "srv-"

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,62}")
_PROFILE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DEVICE = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def _checked(kind: str, pattern: re.Pattern[str], text: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise BadIdError(
            f"{kind} {str(text)[:80]!r} is not allowed", next_step=f"use a {kind} that matches {pattern.pattern}"
        )
    return text


def parse_device_id(text: str) -> DeviceId:
    """Return `text` as a device id. Raises BadIdError, also for ids of the server's own accounts (`srv-…`)."""
    checked = _checked("device id", _DEVICE, text)
    if checked.startswith(SERVER_ACCOUNT_PREFIX):
        raise BadIdError(f"device id {checked!r} is not allowed: ids that begin with srv- are the server's own")
    return DeviceId(checked)


def parse_model_name(text: str) -> ModelName:
    """Return `text` as a model name. Raises BadIdError, also for names of TUF's own roles."""
    checked = _checked("model name", _MODEL, text)
    if checked in RESERVED_MODEL_NAMES:
        raise BadIdError(f"model name {checked!r} is reserved for a signing role", next_step="choose another name")
    return ModelName(checked)


def parse_version(text: str) -> Version:
    """Return `text` as a version. Raises BadIdError."""
    return Version(_checked("version", _VERSION, text))


def parse_profile_name(text: str) -> ProfileName:
    """Return `text` as a profile name. Raises BadIdError."""
    return ProfileName(_checked("profile name", _PROFILE, text))


def parse_tenant(text: str) -> TenantId:
    """Return `text` as a tenant id. Raises BadIdError."""
    return TenantId(_checked("tenant", _TENANT, text))


@dataclass(frozen=True, slots=True, order=True)
class ReleaseRef:
    """A model at a version, written `name@version`."""

    model: ModelName
    version: Version

    @classmethod
    def parse(cls, text: str) -> ReleaseRef:
        """Return the release that `name@version` names. Raises BadIdError."""
        name, sep, version = text.partition("@")
        if not sep:
            raise BadIdError(f"release {text[:80]!r} has no version", next_step="write it as name@version")
        return cls(parse_model_name(name), parse_version(version))

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


def target_path(model: ModelName, version: Version, profile: ProfileName) -> str:
    """Return the TUF target path of a bundle: `model/version/profile.bundle`."""
    return f"{model}/{version}/{profile}.bundle"


def parse_target_path(path: str) -> tuple[ModelName, Version, ProfileName]:
    """Return model, version and profile of a bundle's target path. Raises BadIdError."""
    parts = path.split("/")
    if len(parts) != 3 or not parts[2].endswith(".bundle"):
        raise BadIdError(f"target {path[:200]!r} is not model/version/profile.bundle")
    return parse_model_name(parts[0]), parse_version(parts[1]), parse_profile_name(parts[2].removesuffix(".bundle"))
