"""SSH signatures of files (`ssh-keygen -Y`): made with a key file, checked against a list of signers. ADR 0072."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.release.refusal import RefusalError

IDENTITY = "release@edgefleet"
"""Who signs, in the list of signers and for `ssh-keygen -I`."""
NAMESPACE = "file"
SUMS = "SHA256SUMS"
SIGNERS = Path("deploy/release/allowed_signers")
"""The public keys that may sign a release, in the tree."""


def throwaway_key(folder: Path) -> Path:
    """Make a key that signs a dry run, and return its file."""
    key = folder / "throwaway"
    _keygen("-q", "-t", "ed25519", "-N", "", "-C", "throwaway", "-f", str(key))
    return key


def signers_of(key: Path) -> str:
    """Return a list of signers that holds the public half of one key."""
    kind, data = key.with_name(f"{key.name}.pub").read_text().split()[:2]
    return f'{IDENTITY} namespaces="{NAMESPACE},git" {kind} {data}\n'


def sign(key: Path, path: Path) -> Path:
    """Write the detached signature of a file as FILE.sig and return its path. Raises RefusalError when the key cannot sign."""
    signature = path.with_name(f"{path.name}.sig")
    signature.unlink(missing_ok=True)
    _keygen("-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(path))
    return signature


def verify(signers: Path, path: Path) -> None:
    """Raise RefusalError unless FILE.sig is a signature of the file by one of the signers."""
    signature = path.with_name(f"{path.name}.sig")
    arguments = ("-Y", "verify", "-f", str(signers), "-I", IDENTITY, "-n", NAMESPACE, "-s", str(signature))
    _keygen(*arguments, stdin=path.read_bytes())


def checked_key(root: Path, given: str) -> Path:
    """Return the key file that signs a release.

    Raises RefusalError when none is given, when it lies in the tree, or when what it signs would be verified by nobody.
    """
    if not given:
        raise RefusalError(
            "no key to sign with",
            "neither --key nor EDGEFLEET_RELEASE_KEY names one",
            "give the key file, or use --dry-run",
        )
    key = Path(given).expanduser().resolve()
    if not key.is_file():
        raise RefusalError("the key is not there", f"{key} is no file", "give the file of the private key")
    if key.is_relative_to(root):
        raise RefusalError(
            "the key lies in the work tree", str(key), "move it out of the clone: keys are never committed"
        )
    return key


def check_listed(root: Path, key: Path, folder: Path) -> None:
    """Sign something small with the key. Raises RefusalError unless the signers of the tree verify it."""
    probe = folder / "probe"
    probe.write_text("edgefleet\n")
    sign(key, probe)
    try:
        verify(root / SIGNERS, probe)
    except RefusalError as refusal:
        raise RefusalError(
            f"the key is not in {SIGNERS}",
            "nobody could verify what it signs",
            f'add the line `{IDENTITY} namespaces="{NAMESPACE},git" PUBLIC-KEY` in a commit that is reviewed',
        ) from refusal


def _keygen(*arguments: str, stdin: bytes | None = None) -> None:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise RefusalError("nothing can be signed", "ssh-keygen is not here", "apt-get install -y openssh-client")
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, env=environment, check=False)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        doing = "verified" if "verify" in arguments else "signed"
        raise RefusalError(
            f"the files could not be {doing}",
            lines[0] if lines else "ssh-keygen said nothing",
            "see man ssh-keygen, -Y",
        )
