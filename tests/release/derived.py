"""What is made of a release: system packages and images, in a folder of their own with a signed list. ADR 0163."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.release import artefacts, images, packages, signature
from tests.release.refusal import RefusalError

ARCHITECTURES = ("amd64", "arm64")


def folder_of(release: Path) -> Path:
    """Return the folder next to that of a release."""
    return release.with_name(f"{release.name}-derived")


def build(root: Path, release: Path, key: Path, say: Callable[[str], None], *, make_base: bool) -> Path:
    """Build packages and images of both architectures from the wheels of a release, and return their folder.

    Without buildah the images are left out, which is said. key: signs the provenance of each, and the list. Raises RefusalError.
    """
    out = folder_of(release)
    if out.exists():
        raise RefusalError("the folder of packages and images is there already", str(out), "move it away")
    out.mkdir(parents=True)
    for arch in ARCHITECTURES:
        say(f"building the packages for {arch}")
        packages.make(root, out, arch, release, key)
    missing = [tool for tool in images.TOOLS if shutil.which(tool) is None]
    if missing:
        say(f"note: no images: {' and '.join(missing)} missing (apt-get install -y buildah podman crun skopeo)")
    for arch in () if missing else ARCHITECTURES:
        args = argparse.Namespace(out=str(out), target=[], arch=arch, make_base=make_base, key=str(key))
        images.make(root, args)
    shutil.copy(release / signature.SIGNERS.name, out)
    sums = out / signature.SUMS
    sums.write_text(
        "".join(
            f"{digest}  {name}\n" for name, digest in artefacts.digests(out).items() if name != signature.SIGNERS.name
        )
    )
    signature.sign(key, sums)
    signature.verify(out / signature.SIGNERS.name, sums)
    return out
