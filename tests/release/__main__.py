"""`./dev release [--dry-run | --of-tag vVERSION]`: writes the artefacts of a version, SBOMs, checksums and signature into a folder.

- A release is built twice, signed, and gets a signed tag that holds the signed checksums (`signed_tag`).
- A dry run signs with a key that is made for it and thrown away, and makes no tag.
- `--all` also makes system packages and images of it (`derived`, ADR 0163).
- `--of-tag` builds a released version again and refuses unless each byte is the one that was signed (ADR 0153).

Nothing is uploaded in any case.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.house.docs_site import ARCHIVE as HELP
from tests.release import artefacts, derived, signature, signed_tag
from tests.release.checks import changes_of, check_clean, check_tree, versions
from tests.release.refusal import RefusalError
from tests.release.sbom import sbom_of

CHANGES = "CHANGES.md"
"""What the changelog says of the version: the text of its release page."""


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def build(root: Path, out: Path, scratch: Path, *, with_deb: bool, is_dry: bool, times: int = 2) -> None:
    """Build HEAD in two places, and write the artefacts, the SBOMs of the wheels and what changed. Raises RefusalError.

    is_dry: take the help that the last run built of this commit, which a release never does.
    times: 1 where the bytes are compared with a signed list anyway.
    """
    epoch = artefacts.epoch_of(root, "HEAD")
    folders: list[Path] = []
    for number in ("first", "second")[:times]:
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
        (made / CHANGES).write_text(changes_of((tree / "CHANGELOG.md").read_text()))
        folders.append(made)
    artefacts.check_same(folders[0], folders[-1])
    shutil.copytree(folders[0], out)


def write_sums(out: Path) -> Path:
    """Write the checksums of all files of a folder, as `sha256sum -c` reads them, and return the file."""
    sums = out / signature.SUMS
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in artefacts.digests(out).items()))
    return sums


def cut(root: Path, args: argparse.Namespace) -> Path:
    """Cut the release that the command line asks for, and return the folder. Raises RefusalError."""
    version = args.version or versions(root)["pyproject.toml"]
    is_tagged = check_tree(root, version)
    out = Path(args.out or root / "dist" / f"{'dry-run' if args.dry_run else 'release'}-{version}").resolve()
    if args.dry_run and args.out is None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(derived.folder_of(out), ignore_errors=True)
    _check_absent(out)
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
            signed_tag.make(root, version, key, sums)
        if args.all:
            say(f"packages and images: {derived.build(root, out, key, say, make_base=args.make_base)}")
    return out


def build_again(root: Path, args: argparse.Namespace) -> Path:
    """Build the version of a tag again, and return a folder with the bytes and the signature of its tag. Raises RefusalError."""
    check_clean(root)
    signed_tag.check_head(root, args.of_tag)
    signed_tag.verify(root, args.of_tag)
    sums, signed = signed_tag.contents(signed_tag.message(root, args.of_tag))
    out = Path(args.out or root / "dist" / f"again-{args.of_tag.removeprefix('v')}").resolve()
    if args.out is None:
        shutil.rmtree(out, ignore_errors=True)
    _check_absent(out)
    with tempfile.TemporaryDirectory(prefix="edgefleet-release-") as name:
        made = Path(name) / "made"
        build(root, made, Path(name), with_deb=True, is_dry=False, times=1)
        signed_tag.check_sums(sums, artefacts.digests(made))
        (made / signature.SUMS).write_text(sums)
        (made / f"{signature.SUMS}.sig").write_text(signed)
        shutil.copy(root / signature.SIGNERS, made)
        signature.verify(made / signature.SIGNERS.name, made / signature.SUMS)
        shutil.copytree(made, out)
    return out


def _check_absent(out: Path) -> None:
    if out.exists():
        raise RefusalError(
            "the folder for the artefacts is there already", str(out), "move it away, or name another with --out"
        )


def main(arguments: list[str] | None = None, root: Path | None = None) -> int:
    """Run what the command line says and return the exit code. root: the clone, by default the one that this file is in."""
    parser = argparse.ArgumentParser(prog="./dev release", description="Cut a release. Nothing is uploaded.")
    parser.add_argument("version", nargs="?", help="the version that is meant; without it that of pyproject.toml")
    parser.add_argument("--dry-run", action="store_true", help="no tag, and a signing key that is thrown away")
    parser.add_argument(
        "--of-tag", metavar="TAG", default="", help="build a released version again, and compare it with its signed tag"
    )
    parser.add_argument(
        "--key", default=os.environ.get("EDGEFLEET_RELEASE_KEY", ""), help="private key file; or EDGEFLEET_RELEASE_KEY"
    )
    parser.add_argument("--out", help="folder for the artefacts; it must not exist")
    parser.add_argument(
        "--all", action="store_true", help="also system packages and images of it, into a folder next to it (ADR 0163)"
    )
    parser.add_argument("--make-base", action="store_true", help="with --all: as of ./dev images")
    parser.add_argument("--without-deb", action="store_true", help="leave the Debian package out; in a dry run only")
    args = parser.parse_args(arguments)
    if args.of_tag and (args.dry_run or args.version or args.key or args.all):
        parser.error("--of-tag goes alone: it signs nothing")
    if args.without_deb and not args.dry_run:
        parser.error("--without-deb is for a dry run: a release has all its artefacts")
    try:
        tree = root or Path(__file__).resolve().parents[2]
        out = build_again(tree, args) if args.of_tag else cut(tree, args)
    except RefusalError as refusal:
        say(str(refusal))
        return 1
    if args.of_tag:
        say(f"the same bytes as {args.of_tag} was signed with; nothing was uploaded")
    elif args.dry_run:
        say("nothing was tagged and nothing was uploaded")
    else:
        say("tagged; nothing was pushed and nothing was uploaded")
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
