"""`edge-agent bundle inspect FILE`: what a bundle holds, after every member was checked against its manifest. Needs no agent."""

from pathlib import Path
from typing import Any

import msgspec

from edgefleet_agent.core.text_table import cut, fields, sheet, size
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.digest import sha256_hex

_NAMED = 6


def inspect(path: Path) -> dict[str, Any]:
    """Return the file's digest and size, its manifest in plain data, and its members. Raises BundleError, ManifestError, OSError."""
    with path.open("rb") as file:
        bundle = open_bundle(file)
        bundle.verify_members()
        members = [{"name": entry.name, "bytes": entry.length} for entry in bundle.entries.values()]
        manifest: dict[str, Any] = msgspec.to_builtins(bundle.manifest)
        file.seek(0)
        digest = sha256_hex(file.read())
    manifest.pop("members", None)
    return {"file": str(path), "sha256": digest, "bytes": path.stat().st_size, "members": members, "manifest": manifest}


def inspect_text(found: dict[str, Any]) -> str:
    """Return the same as lines: what it is, what goes in and out, on what it was proved, what it holds."""
    m = found["manifest"]
    operators = sorted(m["operators"], key=lambda name: (-m["operators"][name], name))
    more = f" and {len(operators) - _NAMED} more" if len(operators) > _NAMED else ""
    declared = m.get("declared") or {}
    pairs = [
        ("release", f"{m['model']}@{m['version']}"),
        ("profile", m["profile"]),
        (
            "runtime",
            f"{m['runtime']}, {m['format']}, {m['precision']}"
            + (f", opset {m['opset']}" if m["opset"] else "")
            + (", sealed" if m.get("sealed") else ""),
        ),
        ("proved on", ", ".join(f"{r['name']} {r['version']}" for r in m["runtimes"])),
        ("sha256", found["sha256"]),
        ("size", f"{size(found['bytes'])} in {len(found['members'])} members"),
        ("operators", ", ".join(f"{name} ×{m['operators'][name]}" for name in operators[:_NAMED]) + more),
        ("declared", ", ".join(f"{k} {v}" for k, v in declared.items() if v is not None) or "no limits"),
        ("licence", m.get("licence", "")),
    ]
    tensors = [(way, t["name"], t["dtype"], _shape(t), _tolerance(m, t, way)) for way, t in _tensors(m)]
    return "\n\n".join(
        (
            fields(pairs),
            sheet(("", "tensor", "dtype", "shape", "tolerance"), tensors),
            sheet(("member", "bytes"), [(x["name"], x["bytes"]) for x in found["members"]], right=("bytes",)),
            cut("every member is as the manifest says; the signature is the server's repository's, not the file's"),
        )
    )


def _tensors(manifest: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [("in", t) for t in manifest["inputs"]] + [("out", t) for t in manifest["outputs"]]


def _shape(tensor: dict[str, Any]) -> str:
    return "[" + ", ".join(map(str, tensor["shape"])) + "]"


def _tolerance(manifest: dict[str, Any], tensor: dict[str, Any], way: str) -> str:
    found = manifest["tolerances"].get(tensor["name"]) if way == "out" else None
    if found is None:
        return ""
    return "same top 1" if found.get("top1") else f"{found.get('atol', 0):g} + {found.get('rtol', 0):g} of it"
