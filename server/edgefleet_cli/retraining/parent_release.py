"""The release that is trained further, as a folder for the command that trains: its model, its data, its report.

`release.json` and `report.json` are as the API gives them. `model.*`, or the folder `model`, is what it was published from, and its data
files have the names of `result_files`; these need the role publisher of its model. Each file is checked against its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import ApiError, BadAnswerError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.retraining.result_files import DATA_FILES, MODEL

_REFUSED = frozenset({403, 404})
"""A role that is not enough, and a server that does not have it."""


def fetch_parent(client: ApiClient, ref: str, folder: Path) -> dict[str, Path]:
    """Write a release into a new folder; return its data files by what they are for. Raises ApiError, BadAnswerError, OSError."""
    folder.mkdir(mode=0o700)
    path = f"/releases/{part(ref)}"
    _write(folder / "release.json", client.get(path, api.release.Release).raw)
    _write(folder / "report.json", _if_there(client, f"{path}/report"))
    try:
        source = client.get(f"{path}/source", api.release.ReleaseSource).value
    except ApiError as error:
        if error.status not in _REFUSED:
            raise
        return {}
    for file in source.files:
        _fetch(client, file.sha256, folder / source_name(source.kind, file.path))
    data = {kind: folder / name for kind, name in DATA_FILES.items() if kind in source.data}
    for kind, place in data.items():
        _fetch(client, source.data[kind], place)
    return data


def source_name(kind: str, path: str) -> str:
    """Return where a file of a source is written: `model.onnx`, or its own path below `model`. Raises BadAnswerError."""
    place = PurePosixPath(path)
    if place.is_absolute() or not place.parts or any(one in {"..", "."} for one in place.parts) or "\\" in path:
        raise BadAnswerError(
            f"{path[:80]!r} is no path of a model", why="the server sent it", next_step="check the server"
        )
    return f"{MODEL}{place.suffix}" if kind == "file" else f"{MODEL}/{path}"


def _if_there(client: ApiClient, path: str) -> Mapping[str, object]:
    try:
        return client.get(path, dict).raw
    except ApiError as error:
        if error.status not in _REFUSED:
            raise
        return {}


def _fetch(client: ApiClient, sha256: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    with place.open("wb") as file:
        for chunk in client.blob(sha256):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise BadAnswerError(
            f"{place.name} of the parent is damaged",
            why="its bytes are not those of its digest",
            next_step="check the server",
        )


def _write(place: Path, document: Mapping[str, object]) -> None:
    write_private(place, json.dumps(document, indent=2, sort_keys=True) + "\n")
