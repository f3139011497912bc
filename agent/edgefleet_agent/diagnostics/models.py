"""`edge-agent models`: what is in each model's two slots, where it stands, and what is quarantined. Works without a running agent."""

from typing import Any

from edgefleet_agent.core.text_table import cut, sheet, size
from edgefleet_agent.diagnostics.device import Device
from edgefleet_agent.install.machine import SLOTS
from edgefleet_agent.install.records import ModelRecord, SlotRef
from edgefleet_agent.install.slots import Slots

_SHORT = 12


def models(device: Device) -> dict[str, Any]:
    """Return every model with its slots, phase, figures and quarantine."""
    slots = Slots(device.paths.models)
    live = {m["model"]: m for m in device.status["models"]} if device.status is not None else {}
    found = [_model(name, record, slots, live.get(name)) for name, record in device.records.items()]
    return {"running": device.status is not None, "models": found, "unreadable": device.unreadable}


def _model(name: str, record: ModelRecord, slots: Slots, live: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "model": name,
        "phase": record.phase.value,
        "serving": bool(live and live["serving"]),
        "slots": [_slot(record, slot, slots) for slot in SLOTS],
        "answers": record.seen.n,
        "errors": record.seen.errors,
        "error_class": record.error_class.value if record.error_class is not None else None,
        "error_code": record.error_code,
        "reason": record.reason,
        "quarantine": [
            {"sha256": q.sha256, "error_class": q.error_class.value, "code": q.code, "reason": q.reason, "gen": q.gen}
            for q in record.quarantine
        ],
    }


def _slot(record: ModelRecord, slot: str, slots: Slots) -> dict[str, Any]:
    info = slots.info(record.model, slot)
    role = next((role for role, ref in _roles(record) if ref is not None and ref.slot == slot), "")
    if not role and record.installing == slot:
        role = "installing"
    return {
        "slot": slot,
        "role": role or ("left over" if info is not None else "empty"),
        "version": info.version if info is not None else "",
        "target": info.target if info is not None else "",
        "sha256": info.sha256 if info is not None else "",
        "bytes": info.length if info is not None else -1,
        "runtime": info.runtime if info is not None else "",
    }


def _roles(record: ModelRecord) -> tuple[tuple[str, SlotRef | None], ...]:
    return (("active", record.active), ("previous", record.previous))


def models_text(found: dict[str, Any]) -> str:
    """Return the same as a table and, under it, what is wrong."""
    rows = [
        (
            model["model"],
            slot["slot"],
            slot["role"],
            slot["version"],
            slot["sha256"][:_SHORT],
            size(slot["bytes"]),
            slot["runtime"],
            model["phase"] if slot["role"] in ("active", "installing") else "",
        )
        for model in found["models"]
        for slot in model["slots"]
    ]
    if not rows and not found["unreadable"]:
        return "no model on this device yet\nnext: deploy one, `edgectl deploy MODEL@VERSION --to SELECTOR`"
    lines = [sheet(("model", "slot", "role", "version", "sha256", "size", "runtime", "phase"), rows, right=("size",))]
    for model in found["models"]:
        if model["error_code"]:
            lines.append(cut(f"{model['model']}: {model['error_code']}: {model['reason']}"))
        lines += [
            cut(f"{model['model']}: {q['sha256'][:_SHORT]} is quarantined ({q['code']}): {q['reason']}")
            for q in model["quarantine"]
        ]
    lines += [cut(f"{name}: {why}") for name, why in found["unreadable"].items()]
    if not found["running"]:
        lines.append("no agent runs on this folder: nothing serves")
    return "\n".join(lines)
