"""`edgectl model pull`: a signed bundle as a file here, whole and checked, or not there at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgefleet_cli.core.api.bundle import Bundle
from edgefleet_cli.core.api.release import Release
from edgefleet_cli.core.errors import EXIT_CONFLICT, CliError, UsageError
from edgefleet_cli.core.files import whole_file
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import Reply, reply_of
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.render.progress import download_bar


class Pulled(Struct, frozen=True):
    """A bundle's file. is_new: it was not there with these bytes already."""

    file: str
    ref: str
    profile: str
    sha256: str
    bytes: int
    is_new: bool


PULLED: Sheet[Pulled] = Sheet(
    "files",
    [
        Column("file", lambda p: text(p.file), keep=True),
        Column("release", lambda p: text(p.ref)),
        Column("profile", lambda p: text(p.profile)),
        Column("bytes", lambda p: text(p.bytes), right=True),
        Column("sha256", lambda p: text(p.sha256), wide=True),
    ],
    lambda p: text(p.file),
)


class FileInTheWayError(CliError):
    """A different file exists where the bundle would be written."""

    code = "cli.file_exists"
    exit_code = EXIT_CONFLICT


class WrongBytesError(CliError):
    """The downloaded bytes do not have the announced digest."""

    code = "cli.blob_digest"


def pull(session: Session, ref: str, *, profile: str | None, folder: Path, force: bool) -> Reply[Pulled]:
    """Write a release's bundle into a folder; return what was written. A file with the same bytes is left as it is.

    Raises UsageError, FileInTheWayError, WrongBytesError, UnreadableFileError, ApiError.
    """
    release = session.api.get(f"/releases/{part(ref)}", Release).value
    bundle = _chosen(release, profile)
    sha256, length = bundle.sha256, bundle.bundle_bytes
    file = folder / f"{bundle.model}-{bundle.version}-{bundle.profile}.bundle"
    facts = (str(file), release.ref, bundle.profile, sha256, length)
    if file.exists() and not force:
        if _digest_of(file) == sha256:
            session.out.note(f"{file} exists already with the same content")
            return reply_of(Pulled(*facts, is_new=False))
        raise FileInTheWayError(
            f"{file} already exists", why="it has other content", next_step="add --force, or give another --dir"
        )
    with whole_file(file, "--dir", replace=force) as sink, download_bar(session.out, file.name, length) as advance:
        digest = hashlib.sha256()
        for chunk in session.api.blob(sha256):
            digest.update(chunk)
            sink.write(chunk)
            advance(len(chunk))
        if digest.hexdigest() != sha256:
            raise WrongBytesError(
                f"{file} was not written: its digest is not the requested one",
                why=f"expected sha256 {sha256[:16]}…, got {digest.hexdigest()[:16]}…",
                next_step="try again; if it happens again, the server's blob store is damaged: `edgectl server check`",
            )
    return reply_of(Pulled(*facts, is_new=True))


def _chosen(release: Release, profile: str | None) -> Bundle:
    names = ", ".join(one.profile for one in release.bundles)
    found = [one for one in release.bundles if profile in {None, one.profile}]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{release.ref} has {len(found)} bundles", why=f"one per profile: {names}", next_step="add --profile P"
        )
    raise UsageError(
        f"{release.ref} has no bundle" + (f" for {profile}" if profile else ""),
        why=f"it has bundles for {names}" if names else "none is signed",
        next_step=f"see why: `edgectl release show {release.ref}`",
    )


def _digest_of(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
