"""Gives a release what the same conversion made before, under the new name and version.

This is the one way to a bundle without a child. Nothing is believed: the stored blob is hashed while it is
read, every member is hashed against the old manifest, and the new bundle passes the checks of one from a child. Whatever is wrong
makes the job convert as if nothing had been known.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import msgspec

from edgefleet_protocol.bundle import open_bundle, write_bundle
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ReleaseRef, target_path
from edgefleet_protocol.manifest import MANIFEST_NAME
from edgefleet_server.registry.model import BundleView, JobSpec
from edgefleet_server.registry.service import RegistryService

MAX_BYTES: Final = 256 * 1024 * 1024
"""Larger bundles are converted again: packing holds a bundle in memory twice."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """A bundle under a new name. row: the fields of its report in which it differs; report: the whole report of a child."""

    row: dict[str, Any]
    report: dict[str, Any]


def repack(registry: RegistryService, old: BundleView, spec: JobSpec, out: Path) -> Repacked | None:
    """Write a bundle's content as a bundle of `spec` into `out`; None when it is too large.

    `out` must lie where no child may write: what a child left there, a link too, would be written through.
    Raises BlobUnknownError (also for damaged bytes), BlobStoreError, BundleError, ManifestError.
    """
    if old.length > MAX_BYTES:
        return None
    bundle = open_bundle(BytesIO(registry.read_blob(old.sha256, MAX_BYTES)))
    members = {name: bundle.read(name) for name in bundle.names() if name != MANIFEST_NAME}
    data = write_bundle(members, msgspec.structs.replace(bundle.manifest, **_named(spec.ref)))
    path = out / f"{spec.ref.model}-{spec.ref.version}-{spec.profile}.bundle"
    path.write_bytes(data)
    row = {
        **_named(spec.ref),
        "sha256": sha256_hex(data),
        "bundle_bytes": len(data),
        "target": target_path(spec.ref.model, spec.ref.version, spec.profile),
    }
    return Repacked(row, {**old.report, **row, "path": str(path)})


def _named(ref: ReleaseRef) -> dict[str, str]:
    return {"model": ref.model, "version": ref.version}
