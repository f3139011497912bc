"""Predict which nodes of a TFLite model an accelerator's compiler will place on the accelerator. Pure.

A prediction by the compiler's published list of operators (`backend.mapped_operators`), not by the compiler: it may place fewer.
"""

from collections.abc import Mapping
from typing import Any

from edgefleet_profiles.profile import HardwareProfile


def predicted_mapping(profile: HardwareProfile, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `{compiler, mapped, on_cpu, first_on_cpu, kind: "predicted"}`; None for a profile without a list.

    mapped, on_cpu: `{operator: count}`. first_on_cpu: `{node, operator, why}` of the first node that stays on the CPU, or None.
    """
    nodes = facts.get("nodes")
    if not profile.backend.mapped_operators or not isinstance(nodes, list):
        return None
    mapped: dict[str, int] = {}
    on_cpu: dict[str, int] = {}
    first: dict[str, str] | None = None
    for node in nodes:
        why = _why_not(profile, node)
        if why and first is None:
            first = {"node": str(node["node"]), "operator": str(node["name"]), "why": why}
        behind = first is not None and profile.backend.partition == "prefix"
        place = on_cpu if why or behind else mapped
        place[node["name"]] = place.get(node["name"], 0) + 1
    return {
        "kind": "predicted", "compiler": profile.backend.name, "mapped": _sorted(mapped), "on_cpu": _sorted(on_cpu),
        "first_on_cpu": first,
    }  # fmt: skip


def _why_not(profile: HardwareProfile, node: Mapping[str, Any]) -> str:
    backend = profile.backend
    if node["name"] not in backend.mapped_operators:
        return "not in backend.mapped_operators"
    odd = sorted(set(node["flowing"]) - set(backend.mapped_dtypes)) if backend.mapped_dtypes else []
    return f"{odd[0]} tensors are not in backend.mapped_dtypes" if odd else ""


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def board_facts(profile: HardwareProfile, facts: Mapping[str, Any], arena_bytes: int) -> dict[str, Any]:
    """Return what a bundle holds of its board: backend and predicted mapping of an accelerator, delegates (or execution
    providers) that the board has, arena of TFLite Micro. facts: of the chosen file; arena_bytes: 0 = none.
    """
    found: dict[str, Any] = {"delegates": profile.delegates} if profile.delegates else {}
    backend, mapping = profile.backend, predicted_mapping(profile, facts)
    if backend.mode != "serve":
        found["backend"] = {
            "kind": backend.kind, "name": backend.name, "mode": backend.mode, "reason": backend.reason,
            "next": backend.next_step,
        }  # fmt: skip
    if mapping is not None:
        found["mapping"] = mapping
    if arena_bytes:
        found["arena_bytes"] = arena_bytes
    return found
