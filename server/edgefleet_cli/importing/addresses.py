"""Addresses of models, parsed: what MODEL may be besides a local path. Pure.

mlflow:/NAME@ALIAS  mlflow:/NAME/VERSION  (also models:/…)       an MLflow model registry
https://HOST/PATH/model.onnx[#sha256=HEX]                        a file
s3://BUCKET/KEY[#sha256=HEX]   s3://BUCKET/FOLDER/               a file, or every file below a folder
dvc:REPO[@REV]:PATH                                              a file or folder that DVC tracks; REPO is a path or a Git address
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from edgefleet_cli.core.errors import NotYetError, UsageError

SCHEMES: Final = ("mlflow", "models", "https", "http", "s3", "dvc")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{1,20}):(?=.)", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")
_STAGES = frozenset({"none", "staging", "production", "archived", "latest"})


@dataclass(frozen=True)
class MlflowAddress:
    """A model of a registry, by alias, by version, or by the version that an alias stood for when it was asked ("" = not given)."""

    name: str
    alias: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"mlflow:/{self.name}/{self.version}" if self.version else f"mlflow:/{self.name}@{self.alias}"

    @property
    def release_name(self) -> str:
        """The name as a model of edgefleet may have it."""
        return _NOT_IN_NAMES.sub("-", self.name.lower()).strip("-._")[:63].rstrip("-._") or "model"


@dataclass(frozen=True)
class HttpAddress:
    """A file by HTTP. sha256: what it must have, "" when it is not given. `url` has no fragment and may hold secrets."""

    url: str
    sha256: str = ""

    def __str__(self) -> str:
        """The address without user, password and query, which may be secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    @property
    def file_name(self) -> str:
        """The last part of its path."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


@dataclass(frozen=True)
class S3Address:
    """An object, or with a slash at its end all objects below a prefix."""

    bucket: str
    key: str
    sha256: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def is_folder(self) -> bool:
        """Whether it stands for many objects."""
        return not self.key or self.key.endswith("/")


@dataclass(frozen=True)
class DvcAddress:
    """What DVC tracks at `path` of a repository, as of `rev` ("" = as it lies there)."""

    repo: str
    rev: str
    path: str

    def __str__(self) -> str:
        return f"dvc:{_without_secrets(self.repo)}{f'@{self.rev}' if self.rev else ''}:{self.path}"


Address = MlflowAddress | HttpAddress | S3Address | DvcAddress


def parse_address(given: str) -> Address | None:
    """Return the address that MODEL is; None for a local path or a `file:` URI. Raises UsageError, NotYetError."""
    found = _SCHEME.match(given)
    scheme = found.group(1).lower() if found else ""
    if not found or scheme == "file" or (scheme not in SCHEMES and not given.startswith(f"{found.group(1)}:/")):
        return None
    rest = given[found.end() :]
    if scheme in {"mlflow", "models"}:
        return _mlflow(given, rest)
    if scheme in {"https", "http"}:
        return _http(given)
    if scheme == "s3":
        return _s3(given)
    if scheme == "dvc":
        return _dvc(given, rest)
    raise NotYetError(
        f"models cannot be fetched from {scheme}: addresses yet",
        why=f"known are file:, {', '.join(f'{one}:' for one in SCHEMES)}",
        next_step="download the model and publish the local file or folder",
    )


def _mlflow(given: str, rest: str) -> MlflowAddress:
    text = unquote(rest.lstrip("/"))
    name, at, alias = text.rpartition("@")
    if at and name and alias and "/" not in alias and "/" not in name:
        return MlflowAddress(name, alias=alias)
    name, slash, version = text.rpartition("/")
    if slash and name and "/" not in name and version.isascii() and version.isdigit():
        return MlflowAddress(name, version=version)
    is_stage = version.lower() in _STAGES
    raise UsageError(
        f"{given!r} names no version of a registered model",
        why="MLflow has given up stages for aliases"
        if is_stage
        else "expected mlflow:/NAME@ALIAS or mlflow:/NAME/VERSION",
        next_step="set an alias in MLflow and write mlflow:/NAME@ALIAS",
    )


def _http(given: str) -> HttpAddress:
    url, _, fragment = given.partition("#")
    parts = urlsplit(url)
    sha256 = _sha256(given, fragment)
    if not parts.hostname or not parts.path.rpartition("/")[2]:
        raise UsageError(
            f"{given!r} names no file",
            why="an address of a model ends in the name of its file",
            next_step="write https://HOST/PATH/model.onnx",
        )
    if parts.scheme == "http" and not sha256 and not _is_here(parts.hostname):
        raise UsageError(
            "a model is not fetched over plain http: without its digest",
            why="it could be changed on the way",
            next_step="use https:, or write the digest behind the address: #sha256=HEX",
        )
    return HttpAddress(url, sha256)


def _s3(given: str) -> S3Address:
    text, _, fragment = given.partition("#")
    bucket, _, key = text[len("s3://") :].partition("/") if text.lower().startswith("s3://") else ("", "", "")
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,62}", bucket):
        raise UsageError(
            f"{given!r} names no bucket",
            why="expected s3://BUCKET/KEY",
            next_step="write s3://BUCKET/KEY, or s3://BUCKET/FOLDER/",
        )
    address = S3Address(bucket, key, _sha256(given, fragment))
    if address.is_folder and address.sha256:
        raise UsageError(
            "a folder has no digest", why="#sha256= belongs to one file", next_step="leave it out, or name the file"
        )
    return address


def _dvc(given: str, rest: str) -> DvcAddress:
    where, colon, path = rest.rpartition(":")
    repo, at, rev = where.rpartition("@")
    if not at or "/" in rev or ":" in rev:  # the @ of user@host, or none at all
        repo, rev = where, ""
    if not colon or not repo or not path or path.startswith("/"):
        raise UsageError(
            f"{given!r} names no file of a DVC repository",
            why="expected dvc:REPO@REV:PATH",
            next_step="for example dvc:.@v1.2:models/digits.onnx",
        )
    if repo.startswith("-") or rev.startswith("-") or path.startswith("-"):
        raise UsageError(
            "a part of the address begins with a dash", why=f"got {given!r}", next_step="write ./ before it"
        )
    return DvcAddress(repo, rev, path)


def _sha256(given: str, fragment: str) -> str:
    name, _, digest = fragment.partition("=")
    digest = digest.lower()
    if fragment and (name != "sha256" or not _SHA256.fullmatch(digest)):
        raise UsageError(
            f"{fragment[:80]!r} after the address is not a digest",
            why=f"in {given[:200]!r}",
            next_step="write #sha256= and 64 digits of hex",
        )
    return digest


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_secrets(repo: str) -> str:
    parts = urlsplit(repo)
    if not parts.scheme or not parts.netloc:
        return repo
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
