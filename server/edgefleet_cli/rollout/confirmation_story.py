"""How failures that other devices were asked to confirm are shown: who reported them, who was drawn, and what follows."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.render.format import moment, named, text
from edgefleet_cli.render.output import Output

_NAMED = 5


def show_confirmations(out: Output, rollout: api.rollout.Rollout) -> None:
    """Write the whole story of each confirmation of a rollout, if it has any."""
    for stage in rollout.stages:
        for cell in stage.strata:
            for one in cell.confirmations:
                out.heading(f"Confirmation in {text(stage.name)} / {text(cell.stratum)}")
                out.fields(confirmation_fields(one))


def confirmation_fields(one: api.rollout.Confirmation) -> list[tuple[str, str]]:
    """Return a confirmation as fields: how it stands, who reported the failure, who was drawn and showed what, what follows."""
    reported = [named(device.device, device.display_name) for device in one.reported_by[:_NAMED]]
    more = f" and {one.reports - len(reported)} more" if one.reports > len(reported) else ""
    drawn = [_drawn(device) for device in one.drawn]
    return [
        ("verdict", text(one.verdict).replace("_", " ")),
        ("what", text(one.text)),
        ("reported by", ", ".join(reported) + more),
        ("confirmed by", text(one.how_text)),
        ("drawn", "; ".join(drawn) or "none: no other device could be asked"),
        ("server", _proof(one)),
        ("opened", moment(one.opened_at)),
        ("closed", moment(one.closed_at) if one.closed_at else ""),
        ("answer due", "" if one.closed_at else moment(one.deadline)),
        ("next", text(one.next)),
    ]


def words_text(evidence: dict[str, Any]) -> list[str]:
    """Return what a decision knew of a confirmation: `confirmation open: 1 of 3 drawn failed, 2 must`; nothing where there was none."""
    words = evidence.get("words")
    if not isinstance(words, dict) or not words.get("verdict"):
        return []
    verdict = str(words["verdict"]).replace("_", " ")
    drawn, failed, need = (text(words.get(key)) for key in ("drawn", "failed", "need"))
    return [f"confirmation {verdict}: {failed} of {drawn} drawn failed, {need} must"]


def _drawn(device: api.rollout.DrawnDevice) -> str:
    is_new = " (offered the release for this)" if device.is_new else ""
    return f"{named(device.device, device.display_name)}: {text(device.text)}{is_new}"


def _proof(one: api.rollout.Confirmation) -> str:
    if not one.proof:
        return ""
    found = (
        "could not check" if one.is_proof_ok is None else "its check passed" if one.is_proof_ok else "its check failed"
    )
    return f"{found}: {one.proof}"
