"""How bundles of all releases are shown, what is inside one, and how it is signed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.structs import Struct, field
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.release.render import precision_text
from edgefleet_cli.render.format import metric, milliseconds, moment, size, text, until_s
from edgefleet_cli.render.output import Column, Output, Sheet


class Manifest(Struct, frozen=True):
    """What is read here of a bundle's manifest."""

    model: str = ""
    version: str = ""
    profile: str = ""
    source_sha256: str | None = None
    recipe: dict[str, Any] | None = None
    runtimes: tuple[dict[str, Any], ...] = ()
    opset: Any = None
    declared: dict[str, Any] | None = None
    licence: str | None = None
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    sealed: dict[str, Any] | None = None


class Inspected(Struct, frozen=True):
    """A bundle file whose members are as its manifest says."""

    file: str
    manifest: Manifest
    bytes: int
    sha256: str


class Verified(Struct, frozen=True):
    """A bundle file that the server's trust repository vouches for."""

    file: str
    sha256: str
    bytes: int
    model: str
    version: str
    profile: str
    members: str
    signature: str
    role: str | None
    expires: str | None


class _Member(NamedTuple):
    name: str
    length: Any
    sha256: str


def ref_of(bundle: api.bundle.Bundle | api.bundle.BundleInside | Manifest | Verified) -> str:
    """Return `model@version`."""
    return f"{text(bundle.model)}@{text(bundle.version)}"


ALL_BUNDLES: Sheet[api.bundle.Bundle | api.bundle.BundleInside] = Sheet(
    "signed bundles; publish a model with `edgectl publish MODEL --name N --version V`",
    [
        Column("release", ref_of, keep=True),
        Column("profile", lambda b: text(b.profile)),
        Column("runtime", lambda b: text(b.runtime), spare=2),
        Column("precision", precision_text, spare=1),
        Column("size", lambda b: size(b.bundle_bytes), right=True),
        Column("sha256", lambda b: text(b.sha256)[:12], keep=True),
        Column("signed", lambda b: moment(b.signed_at), spare=3),
        Column("metric", lambda b: metric(b.metric), wide=True),
        Column("digest", lambda b: text(b.sha256), wide=True, keep=True),
    ],
    lambda b: text(b.sha256),
)

_MEMBERS: list[Column[_Member]] = [
    Column("member", lambda m: text(m.name), keep=True),
    Column("size", lambda m: size(m.length), right=True),
    Column("sha256", lambda m: text(m.sha256)[:16]),
]

INSPECTED: Sheet[Inspected] = Sheet(
    "bundle files",
    [
        Column("file", lambda f: text(f.file)),
        Column("release", lambda f: ref_of(f.manifest), keep=True),
        Column("profile", lambda f: text(f.manifest.profile)),
        Column("size", lambda f: size(f.bytes), right=True),
        Column("digest", lambda f: text(f.sha256), wide=True, keep=True),
    ],
    lambda f: text(f.sha256),
)

VERIFIED: Sheet[Verified] = Sheet(
    "bundle files",
    [
        Column("file", lambda f: text(f.file)),
        Column("release", ref_of, keep=True),
        Column("profile", lambda f: text(f.profile)),
        Column("members", lambda f: text(f.members)),
        Column("signature", lambda f: text(f.signature)),
        Column("role", lambda f: text(f.role)),
        Column("until", lambda f: moment(f.expires)),
    ],
    lambda f: text(f.sha256),
)


class NotSignedError(CliError):
    """The server's trust repository does not vouch for these bytes now: no device would take them."""

    code = "cli.bundle_not_signed"


def signature_text(signature: api.bundle.Signature, now: datetime) -> str:
    """Return how a bundle is signed, in words."""
    state = signature.state
    if state == "missing":
        return "not signed: not in the trust repository"
    if state == "differs":
        return f"differs: the trust repository names other bytes, sha256 {text(signature.sha256)[:16]}"
    shown = f"signed by role {text(signature.role)}, version {text(signature.version)}"
    is_over = (until_s(signature.expires, now) or 0) <= 0
    return f"{shown}, {'which ended' if is_over else 'until'} {moment(signature.expires)}"


def show_bundle(out: Output, bundle: api.bundle.BundleInside, now: datetime) -> None:
    """Write one bundle for eyes: signature, figures, members."""
    out.fields(
        [
            ("release", ref_of(bundle)),
            ("profile", text(bundle.profile)),
            ("signature", signature_text(bundle.signature, now)),
            ("target", text(bundle.target)),
            ("sha256", text(bundle.sha256)),
            ("leaf index", text(bundle.leaves)),
            ("size", size(bundle.bundle_bytes)),
            ("signed", moment(bundle.signed_at)),
            ("runs in", f"{text(bundle.runtime)}, {precision_text(bundle)}"),
            ("metric", metric(bundle.metric)),
        ]
    )
    if bundle.manifest is None:
        out.note(f"what is in it cannot be read: {text(bundle.trouble)}")
        return
    manifest = struct_of(bundle.manifest, Manifest)
    declared = manifest.declared or {}
    out.heading("Contents")
    out.fields(
        [
            ("made from", text(manifest.source_sha256)),
            ("recipe", text((manifest.recipe or {}).get("sha256"))),
            ("proved on", ", ".join(f"{r['name']} {r['version']}" for r in manifest.runtimes)),
            ("operator set", text(manifest.opset)),
            ("declared p95", milliseconds(declared.get("latency_p95_ms"))),
            ("declared memory", size(declared.get("peak_memory_bytes"))),
            ("licence", text(manifest.licence)),
        ]
    )
    members = [_Member(name, member["length"], member["sha256"]) for name, member in sorted(manifest.members.items())]
    out.table(members, _MEMBERS)
