"""`./dev release [--dry-run]`: builds one version twice, and writes its artefacts, SBOMs, checksums and signature into a folder.

A dry run signs with a key that is made for it and thrown away, and makes no tag. Nothing is uploaded in either case.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.house.docs_site import ARCHIVE as HELP
from tests.release import artefacts, signature
from tests.release.checks import check_tree, git, versions
from tests.release.refusal import RefusalError
from tests.release.sbom import sbom_of


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def build(root: Path, out: Path, scratch: Path, *, with_deb: bool, is_dry: bool) -> None:
    """Build HEAD twice in two places, and write the artefacts and the SBOMs of the wheels. Raises RefusalError.

    is_dry: take the help that the last run built of this commit, which a release never does.
    """
    epoch = artefacts.epoch_of(root, "HEAD")
    folders: list[Path] = []
    for number in ("first", "second"):
        say(f"building, {number} time")
        tree = artefacts.export(root, "HEAD", scratch / number / "tree")
        made = scratch / number / "out"
        made.mkdir()
        if folders:
            # built once, for it takes as long as all else together; a test holds that the same pages make the same bytes
            (tree / HELP).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(scratch / "first" / "tree" / HELP, tree / HELP)
        else:
            artefacts.help_of(root, tree, epoch, may_be_kept=is_dry)
        artefacts.build_python(tree, made, epoch)
        if with_deb:
            artefacts.build_debian(tree, made, epoch)
        for wheel in sorted(made.glob("*.whl")):
            (made / f"{wheel.name}.cdx.json").write_text(sbom_of(wheel, epoch))
        folders.append(made)
    artefacts.check_same(*folders)
    shutil.copytree(folders[0], out)


def write_sums(out: Path) -> Path:
    """Write the checksums of all files of a folder, as `sha256sum -c` reads them, and return the file."""
    sums = out / signature.SUMS
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in artefacts.digests(out).items()))
    return sums


def tag(root: Path, version: str, key: Path) -> None:
    """Make the signed tag of a version at HEAD."""
    ssh = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}")
    git(root, *ssh, "tag", "-s", f"v{version}", "-m", f"edgefleet {version}")


def cut(root: Path, args: argparse.Namespace) -> Path:
    """Cut the release that the command line asks for, and return the folder. Raises RefusalError."""
    version = args.version or versions(root)["pyproject.toml"]
    is_tagged = check_tree(root, version)
    out = Path(args.out or root / "dist" / f"{'dry-run' if args.dry_run else 'release'}-{version}").resolve()
    if args.dry_run and args.out is None:
        shutil.rmtree(out, ignore_errors=True)
    if out.exists():
        raise RefusalError(
            "the folder for the artefacts is there already", str(out), "move it away, or name another with --out"
        )
    with tempfile.TemporaryDirectory(prefix="edgefleet-release-") as name:
        scratch = Path(name)
        if args.dry_run:
            key = signature.throwaway_key(scratch)
            signers = signature.signers_of(key)
        else:
            key = signature.checked_key(root, args.key)
            signature.check_listed(root, key, scratch)
            signers = (root / signature.SIGNERS).read_text()
        build(root, out, scratch, with_deb=not args.without_deb, is_dry=args.dry_run)
        sums = write_sums(out)
        signature.sign(key, sums)
        (out / signature.SIGNERS.name).write_text(signers)
        signature.verify(out / signature.SIGNERS.name, sums)
        if not args.dry_run and not is_tagged:
            tag(root, version, key)
    return out


def main(arguments: list[str] | None = None, root: Path | None = None) -> int:
    """Run what the command line says and return the exit code. root: the clone, by default the one that this file is in."""
    parser = argparse.ArgumentParser(prog="./dev release", description="Cut a release. Nothing is uploaded.")
    parser.add_argument("version", nargs="?", help="the version that is meant; without it that of pyproject.toml")
    parser.add_argument("--dry-run", action="store_true", help="no tag, and a signing key that is thrown away")
    parser.add_argument(
        "--key", default=os.environ.get("EDGEFLEET_RELEASE_KEY", ""), help="private key file; or EDGEFLEET_RELEASE_KEY"
    )
    parser.add_argument("--out", help="folder for the artefacts; it must not exist")
    parser.add_argument("--without-deb", action="store_true", help="leave the Debian package out; in a dry run only")
    args = parser.parse_args(arguments)
    if args.without_deb and not args.dry_run:
        parser.error("--without-deb is for a dry run: a release has all its artefacts")
    try:
        out = cut(root or Path(__file__).resolve().parents[2], args)
    except RefusalError as refusal:
        say(str(refusal))
        return 1
    say(
        "nothing was tagged and nothing was uploaded"
        if args.dry_run
        else "tagged; nothing was pushed and nothing was uploaded"
    )
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
