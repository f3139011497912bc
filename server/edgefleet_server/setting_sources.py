"""Where a setting comes from. Strongest first: flag, environment, drop-ins, `server.toml`, systemd credential (ADR 0144).

1. In the environment a setting is `EDGEFLEET_SERVER_NAME`, or `EDGEFLEET_SERVER_NAME_FILE`: a file with the value. Both is refused.
2. Drop-ins are `server.toml.d/*.toml`; the last by name wins.
3. A credential is `edgefleet.NAME` in `$CREDENTIALS_DIRECTORY`.
4. A text is read as JSON where a setting is no plain value; a list of words may also be written with commas.

Secrets are the exception: their files and credentials are read when they are used, by :func:`text_of`.
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from edgefleet_protocol.errors import EdgefleetError

ENVIRONMENT: Final = "EDGEFLEET_SERVER_"
"""How names of settings begin in the environment, in whatever case."""
CREDENTIAL: Final = "edgefleet."
_NOT_SETTINGS: Final = frozenset({"data", "init"})
"""Read by `edgectl`: EDGEFLEET_SERVER_DATA says where the data folder is, EDGEFLEET_SERVER_INIT lets `server start` make it."""
_OF_KUBERNETES: Final = re.compile(r"(^|_)service_(host|port)(_|$)|(^|_)port_\d+_(tcp|udp|sctp)(_|$)")
"""Variables that Kubernetes sets for a service whose name begins with `edgefleet-server`."""
_ADDRESS_OF_KUBERNETES: Final = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(EdgefleetError):
    """The settings cannot be used."""

    code = "server.bad_settings"


class Source(StrEnum):
    """What kind of place a value comes from, strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    ENVIRONMENT_FILE = "environment file"
    FILE = "file"
    CREDENTIAL = "credential"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one value comes from. where: the flag, the variable, the file and its line, or the credential."""

    source: Source
    where: str


@dataclass(slots=True)
class Given:
    """What the places outside of the command line give. texts: as they stand there, yet to be read as values."""

    environment: dict[str, str] = field(default_factory=dict)
    file: dict[str, Any] = field(default_factory=dict)
    credentials: dict[str, str] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)


def read_sources(data_dir: Path, names: Collection[str], environ: Mapping[str, str] = os.environ) -> Given:
    """Return what environment, files and credentials give for the settings `names`. Raises SettingsError, TOMLDecodeError."""
    given = Given()
    _read_credentials(given, names, environ)
    _read_files(given, data_dir)
    _read_environment(given, names, environ)
    return given


def _read_credentials(given: Given, names: Collection[str], environ: Mapping[str, str]) -> None:
    for name in names:
        path = credential_file(f"{CREDENTIAL}{name}", environ)
        if path is not None:
            if f"{name}_file" not in names:  # that of a secret is read when it is used
                given.credentials[name] = text_of(path, f"the setting {name}", f"the credential {path.name}")
            given.origins[name] = Origin(Source.CREDENTIAL, path.name)


def _read_files(given: Given, data_dir: Path) -> None:
    for path in (data_dir / "server.toml", *sorted((data_dir / "server.toml.d").glob("*.toml"))):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(
                f"{path} is not valid TOML: {error}", next_step="correct the file and start again"
            ) from error
        given.file |= table
        shown = path.relative_to(data_dir)
        given.origins |= {name: Origin(Source.FILE, f"{shown}:{_line_of(name, text)}") for name in table}


def _line_of(name: str, text: str) -> int:
    heads = re.compile(rf"""\s*(\[\[?\s*)?["']?{re.escape(name)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if heads.match(line)), 1)


def _read_environment(given: Given, names: Collection[str], environ: Mapping[str, str]) -> None:
    for variable, value in _ours(environ):
        name = variable[len(ENVIRONMENT) :].lower()
        own = name.removesuffix("_file")
        if name in names:
            _once(given, name, Origin(Source.ENVIRONMENT, variable), value)
        elif name != own and own in names:
            text = text_of(Path(value), f"the setting {own}", variable)
            _once(given, own, Origin(Source.ENVIRONMENT_FILE, f"{variable}={value}"), text)
        elif name not in _NOT_SETTINGS:
            raise SettingsError(
                f"{variable} is in the environment, but there is no setting {own!r}{did_you_mean(own, names)}",
                next_step="correct the name, or take the variable away; docs/reference/settings.md lists all settings",
            )


def _ours(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, value in sorted(environ.items()):
        name = variable.upper()
        if not name.startswith(ENVIRONMENT):
            continue
        rest = name[len(ENVIRONMENT) :].lower()
        is_address = rest.endswith("port") and _ADDRESS_OF_KUBERNETES.match(value)
        if not is_address and not _OF_KUBERNETES.search(rest):
            yield variable, value


def _once(given: Given, name: str, origin: Origin, value: str) -> None:
    if name in given.environment:
        raise SettingsError(
            f"{given.origins[name].where} and {origin.where} both set {name}", next_step="keep one of them"
        )
    given.environment[name], given.origins[name] = value, origin


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Return a question with the name that is nearest, "" where none is near."""
    near = get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def text_of(path: Path, owner: str, setting: str) -> str:
    """Return the text of the file of a value. owner: whose it is, in words. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(
            f"the file {path} of {owner} cannot be read: {why}",
            next_step=f"let the server's user read it, or correct {setting}",
        ) from None
    if not text:
        raise SettingsError(
            f"the file {path} of {owner} is empty",
            next_step=f"put the value into it, or remove {setting}",
        )
    return text


def is_in_environment(name: str) -> bool:
    """Return whether the environment of this process gives a setting."""
    return f"{ENVIRONMENT}{name.upper()}" in os.environ


def credential_file(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of a systemd credential (`LoadCredential=`), None when this process was not given it."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, name) if folder else None
    return path if path is not None and path.is_file() else None
