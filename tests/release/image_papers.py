"""What goes with an image: its SBOM of Debian's and Python's packages, and the signed statement of what it was built from. ADR 0146.

The statement is in-toto's (Statement v1 with the predicate of SLSA provenance v1) in a DSSE envelope. It is signed like a release
(ADR 0072): an SSH signature, here over DSSE's pre-authentication encoding.
"""

from __future__ import annotations

import base64
import json
import tempfile
import uuid
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from tests.release import signature
from tests.release.refusal import RefusalError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_REPOSITORY = "https://github.com/edgefleet/edgefleet"


def _component(kind: str, name: str, version: str, **qualifiers: str) -> Component:
    namespace = "debian" if kind == "deb" else None
    purl = PackageURL(kind, namespace=namespace, name=name, version=version, qualifiers=qualifiers or None)
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string())


def sbom_of_root(root: Path, tag: str, digest: str, epoch: int) -> str:
    """Return the SBOM of the file system of an image as CycloneDX 1.6 JSON. digest: of its manifest; epoch: time of the commit, seconds."""
    name, _, version = tag.partition(":")
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    purl = PackageURL("oci", name=name.rpartition("/")[2], version=digest, qualifiers={"tag": version})
    own = Component(name=name, version=version, type=ComponentType.CONTAINER, purl=purl, bom_ref=purl.to_string())
    bom.metadata.component = own
    found = []
    for file in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        about = HeaderParser().parsestr(file.read_text("utf-8"))
        found.append(_component("deb", about["Package"], about["Version"], arch=about["Architecture"]))
    for site in sorted(root.glob("usr/local/lib/python3*/dist-packages")):
        found += _of_python(site)
    bom.components.update(found)
    bom.register_dependency(own, found)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return f"{text}\n"


def sbom_of_site(site: Path, name: str, version: str, digest: str, epoch: int) -> str:
    """Return the SBOM of a system package that brings its Python packages, as CycloneDX 1.6 JSON. digest: of the package's file."""
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    purl = PackageURL("generic", name=name, version=version, qualifiers={"checksum": digest})
    own = Component(name=name, version=version, type=ComponentType.APPLICATION, purl=purl, bom_ref=purl.to_string())
    bom.metadata.component = own
    found = _of_python(site)
    bom.components.update(found)
    bom.register_dependency(own, found)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return f"{text}\n"


def _of_python(site: Path) -> list[Component]:
    """Return the Python packages in a folder."""
    ours = sorted(metadata.distributions(path=[str(site)]), key=lambda item: item.metadata["Name"])
    return [_component("pypi", canonicalize_name(one.metadata["Name"]), one.version) for one in ours]


def statement_of(
    name: str,
    digest: str,
    revision: str,
    recipe: str,
    *,
    builder: str = "tests/release/images.py",
    decision: str = "docs/adr/0146-container-images.md",
) -> dict[str, Any]:
    """Return the in-toto statement: this image or package came from this recipe at this commit.

    recipe: what it is made again from; builder: the program that reads it; decision: how the two belong together. All are files of the
    repository.
    """
    source = f"git+{_REPOSITORY}"
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{_REPOSITORY}/blob/main/{decision}",
                "externalParameters": {"source": source, "revision": revision, "recipe": recipe},
                "resolvedDependencies": [{"uri": source, "digest": {"gitCommit": revision}}],
            },
            "runDetails": {"builder": {"id": f"{_REPOSITORY}/blob/main/{builder}"}},
        },
    }


def encoded(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of a payload: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sign(statement: dict[str, Any], key: Path) -> str:
    """Return a statement in a signed DSSE envelope, one line of JSON. Raises RefusalError when the key cannot sign."""
    payload = json.dumps(statement, sort_keys=True).encode()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "statement"
        file.write_bytes(encoded(payload))
        made = signature.sign(key, file).read_bytes()
    signed = {"keyid": signature.IDENTITY, "sig": base64.b64encode(made).decode()}
    return (
        json.dumps({"payloadType": PAYLOAD_TYPE, "payload": base64.b64encode(payload).decode(), "signatures": [signed]})
        + "\n"
    )


def verified(envelope: str, signers: Path, digest: str) -> dict[str, Any]:
    """Return the statement of an envelope about the image of that digest.

    Raises RefusalError for a signature of nobody in `signers`, or a statement about another image.
    """
    document = json.loads(envelope)
    payload = base64.b64decode(document["payload"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "statement"
        file.write_bytes(encoded(payload))
        file.with_name("statement.sig").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
        signature.verify(signers, file)
    statement: dict[str, Any] = json.loads(payload)
    found = [f"sha256:{subject['digest']['sha256']}" for subject in statement["subject"]]
    if digest not in found:
        raise RefusalError(
            "the provenance is of another image", f"it names {', '.join(found)}", "fetch the one of this image"
        )
    return statement
