"""The signed tag of a release: its message holds the checksums of all artefacts and their signature. ADR 0153.

So whoever has the tag has everything that proves a build of it: nothing has to be uploaded by the one who signs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.release import signature
from tests.release.checks import git
from tests.release.refusal import RefusalError

_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"
_TITLE = "Signature of SHA256SUMS:"
"""Stands in the place of the two lines above: with them git would take this signature for that of the tag."""


def message_of(version: str, sums: str, signed: str) -> str:
    """Return the message of a tag. sums, signed: the texts of SHA256SUMS and its signature."""
    bare = signed.strip().removeprefix(_BEGIN).removesuffix(_END).strip()
    return f"edgefleet {version}\n\n{sums.strip()}\n\n{_TITLE}\n{bare}\n"


def contents(text: str) -> tuple[str, str]:
    """Return the checksums and their signature out of the message of a tag. Raises RefusalError when it has none."""
    _, _, rest = text.partition("\n\n")
    sums, _, signed = rest.partition(f"\n\n{_TITLE}\n")
    if not (signed.strip() and sums.strip()):
        raise RefusalError(
            "the tag holds no signed list of checksums",
            "its message has no SHA256SUMS with a signature",
            "take a tag that `./dev release` made",
        )
    return f"{sums.strip()}\n", f"{_BEGIN}\n{signed.strip()}\n{_END}\n"


def make(root: Path, version: str, key: Path, sums: Path) -> None:
    """Make the signed tag of a version at HEAD. sums: SHA256SUMS, with its signature as SHA256SUMS.sig."""
    signed = sums.with_name(f"{sums.name}.sig").read_text()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(message_of(version, sums.read_text(), signed))
        file.flush()
        ssh = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}")
        git(root, *ssh, "tag", "-s", f"v{version}", "--cleanup=verbatim", "-F", file.name)


def message(root: Path, tag: str) -> str:
    """Return the message of a tag, without the signature of the tag itself. Raises RefusalError for an unknown tag."""
    return git(root, "for-each-ref", "--format=%(contents:subject)%0a%0a%(contents:body)", f"refs/tags/{tag}")


def check_head(root: Path, tag: str) -> None:
    """Raise RefusalError unless the tag is there and names HEAD."""
    if not git(root, "tag", "--list", tag):
        raise RefusalError(f"there is no tag {tag}", "this clone has none of that name", "git fetch --tags")
    tagged = git(root, "rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}")
    head = git(root, "rev-parse", "HEAD")
    if tagged != head:
        raise RefusalError(
            f"this is not {tag}", f"the tag names {tagged[:12]}, and this is {head[:12]}", f"git checkout {tag}"
        )


def verify(root: Path, tag: str) -> None:
    """Raise RefusalError unless one of the signers of the tree signed the tag."""
    try:
        git(root, "-c", f"gpg.ssh.allowedSignersFile={signature.SIGNERS}", "verify-tag", tag)
    except RefusalError as refusal:
        raise RefusalError(
            f"no signer of this clone signed {tag}",
            refusal.why,
            f"trust no file of it; compare {signature.SIGNERS} with that of the branch you trust",
        ) from refusal


def check_sums(sums: str, made: dict[str, str]) -> None:
    """Raise RefusalError that names each file whose bytes are not those of the list. made: sha256 by name."""
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    wrong = [name for name in sorted(listed.keys() | made.keys()) if listed.get(name) != made.get(name)]
    if wrong:
        raise RefusalError(
            "this build is not the one that was signed",
            f"other bytes, missing or not listed: {', '.join(wrong)}",
            "build on the system that docs/how-to/cut-a-release.md names; if they differ there too, trust neither",
        )
