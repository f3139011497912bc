"""How a verdict on an archive of evidence looks."""

from __future__ import annotations

from edgefleet_cli.compliance.evidence_check import Verdict
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Output


def show_verdict(out: Output, verdict: Verdict) -> None:
    """Write what an archive proves and what not."""
    manifest = verdict.manifest
    document = {
        "is_whole": not verdict.wrong,
        "model": manifest.model,
        "release": manifest.release,
        "made_at": manifest.made_at,
        "made_by": manifest.made_by,
        "files": len(manifest.files),
        "root_sha256": verdict.root_sha256,
        "proved": verdict.proved,
        "not_proved": verdict.not_proved,
        "wrong": verdict.wrong,
    }

    def lines() -> None:
        what = manifest.release or manifest.model
        out.line(f"Evidence of {text(what)}, made at {manifest.made_at} by {text(manifest.made_by)}.")
        for title, found in (
            ("Wrong", verdict.wrong),
            ("Proved", verdict.proved),
            ("Not proved", verdict.not_proved),
        ):
            if found:
                out.line(f"{title}:")
                for one in found:
                    out.line(f"  {text(one)}")

    out.document(document, lines)
