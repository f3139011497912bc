"""What a bundle says of the records that were captured under it: policy, inputs, columns, names of classes, boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from tempfile import TemporaryFile
from typing import Any

from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.datasets.model import DataSetError, ReleaseFacts
from edgefleet_cli.datasets.policy_check import NOTHING, parse_policy
from edgefleet_protocol.bundle import Bundle, open_bundle

NOT_FOUND = 404


def fetch_facts(api: ApiClient, model: str, sha256: str) -> ReleaseFacts:
    """Return what a bundle of the server says. Of one that the server has no more, nothing is known, and so nothing is kept.

    Raises ServerUnreachableError, ApiError, DataSetError, BundleError.
    """
    try:
        return read_facts(api.blob(sha256), sha256)
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return ReleaseFacts(model, "", sha256, NOTHING, {})


def read_facts(chunks: Iterator[bytes], sha256: str) -> ReleaseFacts:
    """Return what the bundle in these bytes says. Raises DataSetError when it is another one, BundleError."""
    import hashlib

    digest = hashlib.sha256()
    with TemporaryFile() as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != sha256:
            raise DataSetError(
                f"the bundle {sha256[:16]} is damaged",
                why="its sha256 is another",
                next_step="check the server: `edgectl server check`",
            )
        return facts_of(open_bundle(file), sha256)


def facts_of(bundle: Bundle, sha256: str) -> ReleaseFacts:
    """Return what an opened bundle says. Raises BundleError."""
    manifest = bundle.manifest
    recipes = {str(one.get("name")): one for one in _member(bundle, "preprocess.json").get("inputs", [])}
    columns = {
        str(column): name
        for name, recipe in recipes.items()
        if recipe.get("from") == "columns"
        for column in recipe.get("columns", [])
    }
    outputs = _member(bundle, "postprocess.json").get("outputs", [])
    has_boxes = any(step.get("op") == "boxes" for one in outputs for step in one.get("steps", []))
    words = bundle.read("labels.txt").decode(errors="replace") if "labels.txt" in bundle.entries else ""
    policy = bundle.read("privacy.json") if "privacy.json" in bundle.entries else None
    return ReleaseFacts(
        model=manifest.model,
        release=f"{manifest.model}@{manifest.version}",
        bundle=sha256,
        policy=parse_policy(policy),
        inputs={spec.name: spec for spec in manifest.inputs},
        recipes=recipes,
        columns=columns,
        labels=tuple(line.strip() for line in words.rstrip("\r\n").split("\n")) if words.strip() else (),
        outputs=tuple(manifest.outputs),
        postprocess=bundle.read("postprocess.json") if has_boxes else b"",
    )


def _member(bundle: Bundle, name: str) -> Mapping[str, Any]:
    if name not in bundle.entries:
        return {}
    found = json.loads(bundle.read(name))
    return found if isinstance(found, dict) else {}
