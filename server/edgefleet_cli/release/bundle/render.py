"""How bundles of all releases are shown, what is inside one, and how it is signed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.render.format import metric, milliseconds, moment, size, text, until_s
from edgefleet_cli.render.output import Column, Output, Sheet

Json = dict[str, Any]


def ref_of(bundle: Json) -> str:
    """Return `model@version`."""
    return f"{text(bundle.get('model'))}@{text(bundle.get('version'))}"


ALL_BUNDLES = Sheet(
    "signed bundles; publish a model with `edgectl publish MODEL --name N --version V`",
    [
        Column("release", ref_of, keep=True),
        Column("profile", lambda b: text(b.get("profile"))),
        Column("runtime", lambda b: text(b.get("runtime")), spare=2),
        Column("precision", lambda b: text(b.get("precision")), spare=1),
        Column("size", lambda b: size(b.get("bundle_bytes")), right=True),
        Column("sha256", lambda b: text(b.get("sha256"))[:12], keep=True),
        Column("signed", lambda b: moment(b.get("signed_at")), spare=3),
        Column("metric", lambda b: metric(b.get("metric")), wide=True),
        Column("digest", lambda b: text(b.get("sha256")), wide=True, keep=True),
    ],
    lambda b: text(b.get("sha256")),
)

_MEMBERS = [
    Column("member", lambda m: text(m.get("name")), keep=True),
    Column("size", lambda m: size(m.get("length")), right=True),
    Column("sha256", lambda m: text(m.get("sha256"))[:16]),
]

INSPECTED = Sheet(
    "bundle files",
    [
        Column("file", lambda f: text(f.get("file"))),
        Column("release", lambda f: ref_of(f["manifest"]), keep=True),
        Column("profile", lambda f: text(f["manifest"].get("profile"))),
        Column("size", lambda f: size(f.get("bytes")), right=True),
        Column("digest", lambda f: text(f.get("sha256")), wide=True, keep=True),
    ],
    lambda f: text(f.get("sha256")),
)

VERIFIED = Sheet(
    "bundle files",
    [
        Column("file", lambda f: text(f.get("file"))),
        Column("release", ref_of, keep=True),
        Column("profile", lambda f: text(f.get("profile"))),
        Column("members", lambda f: text(f.get("members"))),
        Column("signature", lambda f: text(f.get("signature"))),
        Column("role", lambda f: text(f.get("role"))),
        Column("until", lambda f: moment(f.get("expires"))),
    ],
    lambda f: text(f.get("sha256")),
)


class NotSignedError(CliError):
    """The server's trust repository does not vouch for these bytes now: no device would take them."""

    code = "cli.bundle_not_signed"


def signature_text(signature: Json, now: datetime) -> str:
    """Return how a bundle is signed, in words."""
    state = signature.get("state")
    if state == "missing":
        return "not signed: the trust repository does not name this path"
    if state == "differs":
        return f"differs: the trust repository names other bytes, sha256 {text(signature.get('sha256'))[:16]}"
    told = f"signed by role {text(signature.get('role'))}, version {text(signature.get('version'))}"
    is_over = (until_s(signature.get("expires"), now) or 0) <= 0
    return f"{told}, {'which ended' if is_over else 'until'} {moment(signature.get('expires'))}"


def show_bundle(out: Output, bundle: Json, now: datetime) -> None:
    """Write one bundle for eyes: signature, figures, members."""
    out.fields(
        [
            ("release", ref_of(bundle)),
            ("profile", text(bundle.get("profile"))),
            ("signature", signature_text(bundle["signature"], now)),
            ("target", text(bundle.get("target"))),
            ("sha256", text(bundle.get("sha256"))),
            ("leaf index", text(bundle.get("leaves"))),
            ("size", size(bundle.get("bundle_bytes"))),
            ("signed", moment(bundle.get("signed_at"))),
            ("runs in", f"{text(bundle.get('runtime'))}, {text(bundle.get('precision'))}"),
            ("metric", metric(bundle.get("metric"))),
        ]
    )
    manifest = bundle.get("manifest")
    if not isinstance(manifest, dict):
        out.note(f"what is in it cannot be read: {text(bundle.get('trouble'))}")
        return
    declared = manifest.get("declared") or {}
    out.heading("What is in it")
    out.fields(
        [
            ("made from", text(manifest.get("source_sha256"))),
            ("recipe", text((manifest.get("recipe") or {}).get("sha256"))),
            ("proved on", ", ".join(f"{r.get('name')} {r.get('version')}" for r in manifest.get("runtimes") or [])),
            ("operator set", text(manifest.get("opset"))),
            ("declared p95", milliseconds(declared.get("latency_p95_ms"))),
            ("declared memory", size(declared.get("peak_memory_bytes"))),
            ("licence", text(manifest.get("licence"))),
        ]
    )
    members = manifest.get("members") or {}
    out.table([{"name": name, **member} for name, member in sorted(members.items())], _MEMBERS)
