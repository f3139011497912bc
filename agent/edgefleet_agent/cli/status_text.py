"""What `edge-agent status` shows, and `edge-agent shadow`: candidates, and the inputs on which they and what serves disagree most."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edgefleet_agent.core.text_table import cut
from edgefleet_agent.errors import UnknownModelError
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.status import read_status
from edgefleet_protocol.ids import parse_model_name


def status_text(status: dict[str, Any]) -> str:
    """Return the status as lines for a person: at most 80 columns, but a path is never cut."""
    line = "connected to" if status["connected"] else "NOT connected to"
    lines = _name(status)
    lines += [
        cut(f"device   {status['device']}  pid {status['pid']}  agent {status['agent_version']}"),
        cut(f"profile  {status['profile']}"),
        cut(
            f"link     {line} {status['broker']}; {status['outbox']['messages']} messages waiting; gen {status['gen']}"
        ),
        f"infer    {status['infer_url']}",
        f"socket   {status['infer_socket']}",
    ]
    if status["refused"]["code"]:
        lines.append(cut(f"refused  {status['refused']['code']}: {status['refused']['reason']}"))
    for model in status["models"]:
        parts = model["active_target"].split("/")
        what = f"{model['model']}@{parts[1]}" if len(parts) > 1 else f"{model['model']}, nothing yet"
        serving = "serving" if model["serving"] else "not serving"
        lines.append(cut(f"model    {what}  {model['phase']}  slot {model['slot'] or '-'}  {serving}"))
        if model.get("withdrawn"):
            lines.append(cut(f"         withdrawn: {model['withdrawn']}"))
        if model["error_code"]:
            lines.append(cut(f"         {model['error_code']}: {model['reason']}"))
        lines += [cut(f"         {line}") for line in _labels(status.get("feedback", {}).get(model["model"]))]
        lines += [cut(f"         {line}") for line in _drift(status.get("drift", {}).get(model["model"]))]
        lines += [cut(f"         {line}") for line in schedule_lines(status.get("schedules", {}).get(model["model"]))]
    return "\n".join(lines)


def _labels(known: dict[str, Any] | None) -> list[str]:
    """Return how feedback fared since agentd began; nothing where there was none."""
    if known is None:
        return []
    odd = [f"{known[name]} {word}" for name, word in _ODD_LABELS if known[name]]
    return ["labels: " + ", ".join([f"{known['matched']} matched", *odd])]


_ODD_LABELS = (("unmatched", "without an answer"), ("repeated", "sent again"), ("misfit", "of the wrong kind"))


def _drift(known: dict[str, Any] | None) -> list[str]:
    """Return what is known of the drift of a model; nothing for one whose signals nobody counts."""
    if known is None or not (known["signals"] or known["n"]):
        return []
    if not known["signals"]:
        return [f"drift: learns what is usual, {known['n']} of {known['wanted']} answers"]
    learned = ", by what this device learned" if known["reference"] == "learned" else ""
    if known["drifting"]:
        return [
            f"drift: {one['signal']} since {datetime.fromtimestamp(one['since'], UTC):%m-%d %H:%MZ}"
            f" (PSI {one['psi']:.2f} over {one['scale']}){learned}"
            for one in known["drifting"]
        ]
    if known["judged"] < known["signals"]:
        return [f"drift: {known['signals']} signals, learns for a day how they vary{learned}"]
    return [f"drift: none of {known['signals']} signals{learned}"]


def schedule_lines(known: dict[str, Any] | None) -> list[str]:
    """Return how a schedule of batches stands; nothing where there is none."""
    if known is None:
        return []
    due = f"next {datetime.fromtimestamp(known['due_s'], UTC):%m-%d %H:%MZ}" if known["due_s"] else "not planned yet"
    due = {"running": "runs now", "waiting": "waits until the clock is set"}.get(known["state"], due)
    odd = "".join(f", {known[word]} {word}" for word in ("failed", "missed", "late") if known[word])
    lines = [f"runs: each {known['every']}, {due}; {known['runs']} since it came{odd}"]
    lines += [f"{known['code']}: {known['reason']}"] if known["code"] else []
    return lines + ([f"time zone {known['zone']} is not known here: planned in UTC"] if "zone" in known else [])


def _name(status: dict[str, Any]) -> list[str]:
    """Return the display name: the device learns it with each certificate, so it may have been renamed since."""
    name = status.get("display_name")
    if not name:
        return []
    return [cut(f"name     {name}  as of {datetime.fromtimestamp(status['certificate_from_s'], UTC):%Y-%m-%d}")]


def read_shadow(state: Path, model: str = "") -> dict[str, Any]:
    """Return `{"candidates": [{model, …, kept}]}` of one model, or of all ("").

    Raises NotEnrolledError, AgentNotRunningError, UnknownModelError.
    """
    from edgefleet_agent.worker.shadow.disagreements import read_kept  # loads numpy

    status = read_status(state)
    found = []
    for one in status["models"]:
        candidate = one.get("candidate")
        if candidate is None or model not in ("", one["model"]):
            continue
        file = read_kept(StatePaths(state).kept(parse_model_name(one["model"])))
        is_of_it = file is not None and file.candidate_sha256 == candidate["sha256"]
        kept = msgspec.to_builtins(file.kept) if file is not None and is_of_it else []
        found.append({"model": one["model"], "active_target": one["active_target"], **candidate, "kept": kept})
    if model and not found:
        raise UnknownModelError(f"no candidate of {model} is on this device")
    return {"candidates": found}


def shadow_text(answer: dict[str, Any]) -> str:
    """Return it as lines for a person."""
    lines = []
    for one in answer["candidates"]:
        share = f" {one['share_pct']} %" if one["mode"] == "split" else ""
        lines.append(
            f"{one['model']}  {one['active_target']}  with {one['mode']}{share} {one['target']}  {one['state']}"
        )
        if one["reason"]:
            lines.append(f"  {one['code']}: {one['reason']}")
        lines += [
            f"  {kept['difference']:.3f}  {kept['reason']}  input {kept['input_hash']}  {_answers(kept)}"
            for kept in one["kept"]
        ]
    return "\n".join(lines) or "no candidates on this device"


def _answers(kept: dict[str, Any]) -> str:
    return "  ".join(f"{name}: {str(answer)[:120]}" for name, answer in kept["answers"].items())
