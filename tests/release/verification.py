"""`./dev verify-release FOLDER`: checks what was downloaded of a release against the signers of this clone.

The list of checksums must be signed, each file must be on it with its bytes, and each statement of provenance (in-toto, DSSE) must be
signed and name what it lies next to. SECURITY.md has the same for the list by ssh-keygen and sha256sum alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.release import artefacts, signature
from tests.release.image_papers import verified
from tests.release.refusal import RefusalError

PROVENANCE = ".intoto.jsonl"
_UNLISTED = (signature.SUMS, f"{signature.SUMS}.sig", signature.SIGNERS.name)


def verify(folder: Path, signers: Path) -> list[str]:
    """Return a line for each file of a folder that is as it was signed. Raises RefusalError for the first that is not."""
    sums = folder / signature.SUMS
    if not sums.is_file():
        raise RefusalError(f"{folder} is no release", f"it has no {signature.SUMS}", "name the folder of the download")
    signature.verify(signers, sums)
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in sums.read_text().splitlines())}
    lines = []
    for name, digest in artefacts.digests(folder).items():
        if name in _UNLISTED:
            continue
        if listed.get(name) != digest:
            why = "its bytes are not those of the list" if name in listed else "the list does not have it"
            raise RefusalError(
                f"{name} is not what was signed", why, "download it again, and trust nothing of the folder until then"
            )
        lines.append(f"{name}: {_origin(folder / name, signers) if name.endswith(PROVENANCE) else 'ok'}")
    return lines


def _origin(file: Path, signers: Path) -> str:
    """Return where something was built from. Raises RefusalError unless the statement is signed and names what it lies next to."""
    text = file.read_text()
    (subject,) = json.loads(base64.b64decode(json.loads(text)["payload"]))["subject"]
    digest = f"sha256:{subject['digest']['sha256']}"
    about = file.with_name(file.name.removesuffix(PROVENANCE))
    if about.is_file():  # a package; of an image the digest is that of its manifest, and the list has its archive
        digest = f"sha256:{artefacts.digest(about)}"
    statement = verified(text, signers, digest)
    given = statement["predicate"]["buildDefinition"]["externalParameters"]
    return (
        f"signed: {subject['name']} {digest[:19]} was built from commit {given['revision'][:12]} by {given['recipe']}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, print a line for each file, and return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev verify-release", description="Check a downloaded release.")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--signers",
        type=Path,
        default=Path(__file__).resolve().parents[2] / signature.SIGNERS,
        help="default: those of this clone",
    )
    args = parser.parse_args(arguments)
    try:
        lines = verify(args.folder, args.signers)
    except RefusalError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
