"""`./dev images [TARGET…] [--arch ARCH] [--out DIR]`: builds the container images of the tree with buildah, as archives that engines load.

A row for each: digest, compressed and unpacked megabytes. Next to each archive lie its SBOM and, with --key, its signed provenance.
Images are kept in a storage of their own, which goes at the end. The base is pulled; --make-base makes it of Debian's packages with
mmdebstrap instead, where there is no registry, and keeps it in the cache folder. ADR 0146.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.house.arm import cache, sources
from tests.release.artefacts import epoch_of
from tests.release.checks import git, versions
from tests.release.image_papers import sbom_of_root, sign, statement_of
from tests.release.refusal import RefusalError

BASE, SUITE = "docker.io/library/debian:trixie-slim", "trixie"
MAX_COMPRESSED_MB = {"server": 120, "agent": 120, "agent-litert": 120}
PIP_SETTINGS = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
TOOLS = ("buildah", "podman", "skopeo")
TARGETS = {
    "server": ("server", "server", "edgefleet/server:{}"),
    "converter": ("server", "converter", "edgefleet/converter:{}"),
    "agent": ("agent", "ort", "edgefleet/agent:{}"),
    "agent-litert": ("agent", "litert", "edgefleet/agent:{}-litert"),
}
"""Names of images: the Dockerfile, its target, and the tag with a version."""


@dataclass(frozen=True)
class Image:
    """What was built. Sizes are megabytes (10^6 bytes); digest: of the manifest, as a registry would have it."""

    name: str
    tag: str
    arch: str
    digest: str
    compressed_mb: float
    unpacked_mb: float
    archive: str = ""


@dataclass(frozen=True)
class Storage:
    """Where buildah and podman keep images and containers: a folder of this run."""

    folder: Path

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        """Return a command that works in this storage."""
        places = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return [program, *places, *map(str, arguments)]

    def run(self, program: str, *arguments: str | Path, quiet: bool = True) -> str:
        """Run it and return what it prints. Raises RefusalError with its last line."""
        environment = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        command = self.command(program, *arguments)
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stdout.strip() or "it said nothing").splitlines()[-3:]
            raise RefusalError(
                f"{program} {arguments[0]} failed", " | ".join(last), "run it by hand: see docs/operate/docker.md"
            )
        return done.stdout.strip()


@contextmanager
def storage() -> Iterator[Storage]:
    """Lend a storage, and remove it with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="edgefleet-images-") as name:
        lent = Storage(Path(name))
        try:
            yield lent
        finally:
            subprocess.run(lent.command("buildah", "rm", "--all"), capture_output=True, check=False)
            subprocess.run(lent.command("podman", "system", "reset", "--force"), capture_output=True, check=False)


def made_base() -> Path:
    """Return a tar of Debian's smallest system, made when the cache has none. Needs root, a network and mmdebstrap."""
    archive = cache() / f"debian-{SUITE}-minbase.tar"
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        new = archive.with_suffix(".new.tar")
        command = ["mmdebstrap", "--variant=minbase", "--quiet", SUITE, str(new), *sources(SUITE)]
        try:
            subprocess.run(command, check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RefusalError(
                "the base image cannot be made", str(error), "apt-get install -y mmdebstrap, as root"
            ) from error
        new.rename(archive)
    return archive


def limits() -> list[str]:
    """Return flags of buildah that ask for no more than this process may have."""
    return [
        f"--ulimit={limit}={resource.getrlimit(number)[1]}:{resource.getrlimit(number)[1]}"
        for limit, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
        if resource.getrlimit(number)[1] > 0
    ]


def build(lent: Storage, root: Path, name: str, arch: str, *, layers: bool = True) -> str:
    """Build an image and return its tag. Raises RefusalError."""
    file, target, tag = TARGETS[name]
    tag = tag.format(versions(root)["pyproject.toml"])
    epoch = epoch_of(root, "HEAD")
    numbers = {
        "SOURCE_DATE_EPOCH": str(epoch),
        "VERSION": tag.partition(":")[2],
        "REVISION": git(root, "rev-parse", "HEAD"),
    }
    secrets = [("pip.conf", PIP_SETTINGS[0]), ("ca.pem", PIP_SETTINGS[1])]
    flags = [
        *("--isolation", "chroot", "--pull=missing", "--format", "docker", "--platform", f"linux/{arch}"),
        *("--timestamp", str(epoch), "--layers" if layers else "--no-cache", *limits()),
        *[part for key, value in numbers.items() for part in ("--build-arg", f"{key}={value}")],
        *[part for key, path in secrets if path.is_file() for part in ("--secret", f"id={key},src={path}")],
    ]
    lent.run(
        "buildah", "build", *flags, "-f", root / f"deploy/docker/Dockerfile.{file}", "--target", target, "-t", tag, root
    )
    return tag


def forget_the_build(folder: Path) -> bytes:
    """Take the container that an image was made in out of its configuration: Docker's format names it, so no two builds would be the same.

    folder: an image as buildah pushes it into one. Returns its new manifest.
    """
    manifest = json.loads((folder / "manifest.json").read_bytes())
    old = folder / manifest["config"]["digest"].removeprefix("sha256:")
    about = json.loads(old.read_bytes())
    about.pop("container", None)
    about.pop("container_config", None)
    about["config"].pop("Hostname", None)
    data = json.dumps(about, sort_keys=True).encode()
    name = hashlib.sha256(data).hexdigest()
    old.unlink()
    (folder / name).write_bytes(data)
    manifest["config"] |= {"digest": f"sha256:{name}", "size": len(data)}
    written = json.dumps(manifest, sort_keys=True).encode()
    (folder / "manifest.json").write_bytes(written)
    return written


def measured(lent: Storage, name: str, tag: str, arch: str, archive: Path | None = None) -> Image:
    """Push an image into a folder, as to a registry, and say what it weighs. archive: also write it there."""
    with tempfile.TemporaryDirectory(dir=lent.folder) as folder:
        lent.run("buildah", "push", "--format", "v2s2", f"localhost/{tag}", f"dir:{folder}")
        manifest = forget_the_build(Path(folder))
        if archive is not None:
            archive.unlink(missing_ok=True)
            command = ["skopeo", "copy", "-q", f"dir:{folder}", f"docker-archive:{archive}:{tag}"]
            subprocess.run(command, check=True, stdout=sys.stderr)
    compressed = sum(layer["size"] for layer in json.loads(manifest)["layers"])
    (about,) = json.loads(lent.run("podman", "image", "inspect", f"localhost/{tag}"))
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    sizes = round(compressed / 1e6, 1), round(about["Size"] / 1e6, 1)
    return Image(name, tag, arch, digest, *sizes, archive="" if archive is None else str(archive))


@contextmanager
def mounted(lent: Storage, tag: str) -> Iterator[Path]:
    """Lend the file system of an image, to read."""
    container = lent.run("buildah", "from", "--pull=never", f"localhost/{tag}").splitlines()[-1]
    try:
        yield Path(lent.run("buildah", "mount", container).splitlines()[-1])
    finally:
        lent.run("buildah", "rm", container)


def make(root: Path, args: argparse.Namespace) -> list[Image]:
    """Build what the command line asks for. Raises RefusalError."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise RefusalError(
            "no image can be built", f"{' and '.join(missing)} missing", "apt-get install -y buildah podman crun skopeo"
        )
    out = Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    images: list[Image] = []
    with storage() as lent:
        if args.make_base:
            sys.stderr.write("making the base image, once\n")
            lent.run("podman", "import", "-q", made_base(), BASE)
        for name in args.target or list(TARGETS):
            sys.stderr.write(f"building {name} for {args.arch} ({len(images) + 1} of {len(args.target or TARGETS)})\n")
            tag = build(lent, root, name, args.arch)
            archive = out / f"edgefleet-{name}-{tag.partition(':')[2].split('-')[0]}-{args.arch}.tar"
            image = measured(lent, name, tag, args.arch, archive)
            with mounted(lent, tag) as tree:
                archive.with_suffix(".cdx.json").write_text(
                    sbom_of_root(tree, tag, image.digest, epoch_of(root, "HEAD"))
                )
            if args.key:
                statement = statement_of(
                    tag, image.digest, git(root, "rev-parse", "HEAD"), f"deploy/docker/Dockerfile.{TARGETS[name][0]}"
                )
                archive.with_suffix(".intoto.jsonl").write_text(sign(statement, Path(args.key)))
            images.append(image)
    return images


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and print a table or one JSON object. Return the exit code."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="./dev images", description="Build the container images of this tree.")
    parser.add_argument(
        "target", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all"
    )
    parser.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    parser.add_argument(
        "--out", default=str(root / "dist" / "images"), help="folder for the archives (default: dist/images)"
    )
    parser.add_argument(
        "--make-base", action="store_true", help="make the base image with mmdebstrap instead of pulling it"
    )
    parser.add_argument(
        "--key", default=os.environ.get("EDGEFLEET_RELEASE_KEY", ""), help="SSH key file that signs the provenance"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    args = parser.parse_args(arguments)
    try:
        images = make(root, args)
    except RefusalError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    if args.output == "json":
        sys.stdout.write(json.dumps({"images": [asdict(image) for image in images]}, indent=2) + "\n")
        return 0
    sys.stdout.write(f"{'image':30} {'digest':20} {'compressed':>11} {'unpacked':>10}\n")
    for image in images:
        sys.stdout.write(
            f"{image.tag:30} {image.digest[:19]:20} {image.compressed_mb:8.1f} MB {image.unpacked_mb:7.1f} MB\n"
        )
    sys.stdout.write(f"archives and SBOMs: {args.out}; load one with `podman load -i FILE` or `docker load -i FILE`\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
