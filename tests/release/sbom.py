"""CycloneDX bill of materials of a wheel: what it needs, in the versions it was tested with, and the files of others that lie in it.

A component is `required` when the wheel needs it without an extra, else `optional`. Versions and licences are those of the running
environment, which `./dev` installs from constraints.txt. No time and no random number goes in: the same wheel has the same SBOM.
"""

from __future__ import annotations

import hashlib
import re
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.release.refusal import RefusalError

FOR_DEVELOPERS = frozenset({"dev", "docs"})
"""The extras that no user installs."""
VENDORED = re.compile(r"(?P<name>[a-z][a-z-]*)-(?P<version>\d+\.\d+\.\d+)\.min\.(?:js|css)")
NPM = {
    "htmx": "htmx.org",
    "hx-sse": "htmx.org",
    "swagger-ui": "swagger-ui-dist",
    "swagger-ui-bundle": "swagger-ui-dist",
}
"""Names of vendored files as npm has them."""


@dataclass
class _Needs:
    """What a distribution needs. edges: the names that each name needs itself, `""` for the wheel."""

    edges: dict[str, set[str]] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def walk(self, parent: str, about: metadata.PackageMetadata, extras: frozenset[str]) -> None:
        """Add what a distribution with these extras needs, and what that needs. Raises RefusalError for what is not installed."""
        self.edges.setdefault(parent, set())
        for line in about.get_all("Requires-Dist", []):
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": one}) for one in ("", *extras)):
                name = canonicalize_name(wanted.name)
                if name != parent:
                    self.edges[parent].add(name)
                for extra in ("", *wanted.extras):
                    if (name, extra) not in self.seen:
                        self.seen.add((name, extra))
                        self.walk(name, _installed(name), frozenset({extra} - {""}))


def _installed(name: str) -> metadata.PackageMetadata:
    try:
        return metadata.metadata(name)
    except metadata.PackageNotFoundError:
        raise RefusalError(
            f"the SBOM does not know {name}",
            "it is not installed here",
            "./dev run true brings the environment up to date",
        ) from None


def _of_wheel(wheel: Path) -> metadata.PackageMetadata:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        return metadata.PathDistribution(zipfile.Path(archive, f"{folder}/")).metadata


def _component(
    about: metadata.PackageMetadata, scope: ComponentScope | None = None, kind: ComponentType = ComponentType.LIBRARY
) -> Component:
    name, version = canonicalize_name(about["Name"]), about["Version"]
    purl = PackageURL("pypi", name=name, version=version)
    found = Component(name=name, version=version, type=kind, scope=scope, purl=purl, bom_ref=purl.to_string())
    for expression in about.get_all("License-Expression", []):
        found.licenses.add(LicenseFactory().make_from_string(expression))
    return found


def _vendored(wheel: Path) -> Iterator[Component]:
    """Yield a component for each file of others that lies in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if match := VENDORED.fullmatch(member.rpartition("/")[2]):
                name, version = NPM[match["name"]], match["version"]
                digest = hashlib.sha256(archive.read(member)).hexdigest()
                purl = PackageURL("npm", name=name, version=version)
                hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
                kind, scope = ComponentType.LIBRARY, ComponentScope.REQUIRED
                yield Component(
                    name=member.rpartition("/")[2],
                    version=version,
                    type=kind,
                    scope=scope,
                    purl=purl,
                    hashes=hashes,
                    bom_ref=member,
                )


def sbom_of(wheel: Path, epoch: int) -> str:
    """Return the SBOM of a wheel as CycloneDX 1.6 JSON. epoch: the time of its commit, in seconds. Raises RefusalError."""
    about = _of_wheel(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    own = _component(about, kind=ComponentType.APPLICATION)
    own.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    required, everything = _Needs(), _Needs()
    required.walk("", about, frozenset())
    everything.walk("", about, frozenset(about.get_all("Provides-Extra", [])) - FOR_DEVELOPERS)

    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}"))
    bom.metadata.component = own
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    known = {"": own}
    for name in sorted(everything.edges.keys() - {"", own.name}):
        scope = ComponentScope.REQUIRED if name in required.edges else ComponentScope.OPTIONAL
        known[name] = _component(_installed(name), scope)
        bom.components.add(known[name])
    known[own.name] = own
    for name, wanted in everything.edges.items():
        bom.register_dependency(known[name], [known[one] for one in sorted(wanted) if known[one] is not own])
    vendored = list(_vendored(wheel))
    bom.components.update(vendored)
    bom.register_dependency(own, vendored)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return f"{text}\n"
