"""The model that gave an answer, and the data to compare it with, as this caller may read them.

The bundle that the device ran comes first: that is what answered. A sealed one opens on its devices only, so then it is the ONNX or
TFLite file that the release was published from. That, and the data of the release, need the role publisher of the model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import ApiError, BadAnswerError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.datasets.bundle_facts import facts_of
from edgefleet_cli.datasets.model import ReleaseFacts
from edgefleet_cli.explanation.errors import NotExplainableError
from edgefleet_protocol.bundle import Bundle, open_bundle

COMPARED: Final = ("reference", "calibration", "eval")
"""Data of a release that stands for what is usual, the best first."""
_RUNTIMES: Final = {".onnx": "ort", ".tflite": "litert"}
_REFUSED: Final = frozenset({403, 404})


@dataclass(frozen=True)
class ExplainedModel:
    """Files of a model. of: the bundle's profile, or the source. comparison: None where the caller gives his own."""

    facts: ReleaseFacts
    path: Path
    runtime: str
    of: str
    preprocess: Path | None
    comparison: Path
    compared_with: str


def fetch_model(client: ApiClient, sha256: str, folder: Path, own_data: Path | None) -> ExplainedModel:
    """Write the model of a bundle and the data to compare with into a folder. own_data: to take in the place of the release's.

    Raises NotExplainableError, BadAnswerError, ApiError, BundleError.
    """
    place = folder / "model.bundle"
    try:
        fetch(client, sha256, place)
    except ApiError as error:
        if error.status not in _REFUSED:
            raise
        raise NotExplainableError(
            f"the bundle {sha256[:16]} cannot be read",
            why="the server has it no more, or this account may not read it",
            next_step="a release that was deleted cannot be explained; else ask for the role viewer",
        ) from error
    with place.open("rb") as file:
        bundle = open_bundle(file)
        facts = facts_of(bundle, sha256)
        preprocess = _member(bundle, "preprocess.json", folder)
        source = _source(client, facts.release)
        if bundle.manifest.sealed:
            path, runtime = _from_source(client, facts.release, source, folder)
            of = "the file that the release was published from, as its bundles are sealed"
        else:
            path = folder / "model"
            path.write_bytes(bundle.read(bundle.manifest.model_member))
            runtime, of = bundle.manifest.runtime, f"the bundle for {bundle.manifest.profile}"
    comparison, compared_with = _comparison(client, facts.release, source, folder, own_data)
    return ExplainedModel(facts, path, runtime, of, preprocess, comparison, compared_with)


def fetch(client: ApiClient, sha256: str, place: Path) -> None:
    """Write a blob into a file. Raises BadAnswerError when it is another one, ApiError."""
    digest = hashlib.sha256()
    with place.open("wb") as file:
        for chunk in client.blob(sha256):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise BadAnswerError(
            f"the file {sha256[:16]} is damaged", why="its sha256 is another", next_step="edgectl server check"
        )


def _source(client: ApiClient, ref: str) -> api.release.ReleaseSource | None:
    """Return what a release was published from; None where this caller may not read it."""
    try:
        return client.get(f"/releases/{part(ref)}/source", api.release.ReleaseSource).value
    except ApiError as error:
        if error.status not in _REFUSED:
            raise
        return None


def _from_source(
    client: ApiClient, ref: str, source: api.release.ReleaseSource | None, folder: Path
) -> tuple[Path, str]:
    if source is None:
        raise NotExplainableError(
            f"the model of {ref} cannot be read",
            why="its bundles are sealed for their devices, and what it was published from needs the role publisher of the model",
            next_step="ask a publisher of the model to run this",
        )
    files = {Path(one.path).suffix.lower(): one for one in source.files} if source.kind == "file" else {}
    suffix = next((one for one in _RUNTIMES if one in files), "")
    if not suffix:
        raise NotExplainableError(
            f"the model of {ref} cannot be read",
            why="its bundles are sealed for their devices, and it was published from files that no runtime here takes as they are",
            next_step="publish the model as .onnx or .tflite",
        )
    place = folder / f"model{suffix}"
    fetch(client, files[suffix].sha256, place)
    return place, _RUNTIMES[suffix]


def _comparison(
    client: ApiClient, ref: str, source: api.release.ReleaseSource | None, folder: Path, own_data: Path | None
) -> tuple[Path, str]:
    if own_data is not None:
        return own_data.absolute(), own_data.name
    kind = next((one for one in COMPARED if source is not None and one in source.data), "")
    if source is None or not kind:
        why = (
            "what a release was published from needs the role publisher of its model"
            if source is None
            else "the release was published without reference, calibration and evaluation data"
        )
        raise NotExplainableError(
            f"there is nothing to compare the answer of {ref} with",
            why=why,
            next_step="give samples of usual inputs, as for publish: --compare data.npz",
        )
    place = folder / f"{kind}.npz"
    fetch(client, source.data[kind], place)
    return place, f"{kind} data of the release"


def _member(bundle: Bundle, name: str, folder: Path) -> Path | None:
    if name not in bundle.entries:
        return None
    place = folder / name
    place.write_bytes(bundle.read(name))
    return place
