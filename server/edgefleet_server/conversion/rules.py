"""Rules of the conversion feature: when two conversions are the same, and what is believed of a report. Pure.

* Two jobs are the same when source, data, options, profile and everything that converts are. Name and version do not count: they
  stand in a bundle's manifest only, so that a bundle is packed again and not made again.
* A metric that names code is covered by no digest, so such a job is never the same as another.
* A report comes from the child. It is JSON of bounded size with one entry a profile; paths of this machine are taken out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_protocol.digest import Sha256, folder_sha256, parse_sha256, sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.registry.model import JobSpec

OF_THE_MACHINE: Final = frozenset({"convert.internal", "convert.tool_missing"})
"""Refusals that say nothing about the model: the same publication may go well later, so it is tried again when asked."""
_OF_THE_MOMENT: Final = frozenset(
    {"convert.crashed", "convert.timed_out", "convert.out_of_memory", "convert.tool_failed"}
)
"""Refusals that a busy machine may cause: final for this release, and no reason to refuse another one unseen."""


def content_key(spec: JobSpec, tools: object) -> Sha256 | None:
    """Return the digest of all that decides a job's result; None when it cannot be known. tools: what the child said of itself."""
    if ":" in str(spec.options.get("metric") or ""):
        return None
    try:
        known = parse_sha256(str(tools))
    except EdgefleetError:
        return None
    document = {
        "kind": spec.kind,
        "source": folder_sha256((file.path if spec.kind != "file" else "", file.sha256) for file in spec.files),
        "suffix": spec.files[0].path.rpartition(".")[2].lower() if spec.kind == "file" else "",
        "data": dict(spec.data),
        "options": dict(spec.options),
        "profile": dict(spec.profile_facts),
        "tools": known,
    }
    return sha256_hex(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def may_be_known(state: str, code: str) -> bool:
    """Tell whether a job's end also holds for another job of the same content."""
    return state == "done" or (state == "refused" and code not in OF_THE_MACHINE | _OF_THE_MOMENT)


def trusted_report(document: Any, profile: str) -> dict[str, Any] | None:
    """Return the report of a job without paths of this machine; None when it is not the report of `profile` alone."""
    profiles = document.get("profiles") if isinstance(document, dict) else None
    if not isinstance(profiles, list) or len(profiles) != 1 or not isinstance(profiles[0], dict):
        return None
    row = profiles[0]
    if row.get("profile") != profile:
        return None
    if isinstance(row.get("bundle"), dict):
        row = {**row, "bundle": {**row["bundle"], "path": ""}}
    return {**document, "profiles": [row]}


def renamed_report(
    document: Mapping[str, Any], ref: ReleaseRef, bundle: Mapping[str, Any] | None, kept_from: ReleaseRef
) -> dict[str, Any]:
    """Return the report of the same conversion under another name. bundle: the fields in which its row differs."""
    named = {"model": ref.model, "version": ref.version}
    (row,) = document["profiles"]
    if bundle is not None and isinstance(row.get("bundle"), dict):
        row = {**row, "bundle": {**row["bundle"], **bundle, **named, "path": ""}}
    origin = document.get("kept_from") or str(kept_from)
    return {**document, **named, "profiles": [row], "kept_from": origin}


def merged_report(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of a release out of those of its profiles, of which there is at least one."""
    profiles = [row for document in documents for row in document["profiles"]]
    data: Mapping[str, Any] = next((document["data"] for document in documents if document.get("data")), {})
    return {**documents[0], "profiles": profiles, "data": dict(data), "key": ""}
