"""What the server is told of data sets: that one was written and where, and that records of an erased person are gone from it."""

from __future__ import annotations

import platform

from edgefleet_cli.core import api
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.datasets.dataset_writer import digest_of, read_manifest, remove_records
from edgefleet_cli.datasets.model import DataSetError, DataSetManifest
from edgefleet_cli.datasets.places import FolderPlace, Place

MOST_TEXT = 500


def address_of(place: Place) -> str:
    """Return where a place is, as people find it: a folder with the name of its machine."""
    text = f"{platform.node()}:{place}" if isinstance(place, FolderPlace) else str(place)
    return text[-MOST_TEXT:]


def note_data_set(client: ApiClient, manifest: DataSetManifest, place: Place, run: str) -> None:
    """Let the server know of a data set, so that an erasure names it. Raises ApiError, ServerUnreachableError."""
    records = [
        api.capture.WrittenRecordIn(device=one.device, record=one.id, trace_id=one.trace_id) for one in manifest.records
    ]
    body = api.capture.WrittenDataSetIn(
        model=manifest.model, digest=digest_of(manifest), format=manifest.format, place=address_of(place), retraining=run,
        records=tuple(records),
    )  # fmt: skip
    client.post("/data-sets", body, api.capture.WrittenDataSet)


def purge_data_set(client: ApiClient, place: Place, receipt: str) -> tuple[DataSetManifest, int]:
    """Remove what an erasure asks for from a data set; return its manifest since then, and how many records went.

    Once more after it broke off it goes on: what is gone stays gone, and the server is told. Raises DataSetError, ApiError.
    """
    manifest = read_manifest(place.manifest())
    known = _known(client, manifest, place)
    path = f"/data-sets/{part(known.id)}"
    asked = client.pages(f"{path}/records", api.capture.WrittenRecord, erasure=receipt)
    gone = {(one.value.device, one.value.record) for one in asked.replies}
    if not gone:
        return manifest, 0
    left = remove_records(place, gone)
    body = api.capture.DataSetPurgeIn(erasure=receipt, digest=digest_of(left), records=len(gone))
    client.post(f"{path}:purge", body, api.capture.WrittenDataSet)
    return left, len(manifest.records) - len(left.records)


def _known(client: ApiClient, manifest: DataSetManifest, place: Place) -> api.capture.WrittenDataSet:
    """Return what the server knows of a data set: by its place, else by its manifest. Raises DataSetError."""
    address = address_of(place)
    of_model = [
        one.value for one in client.pages("/data-sets", api.capture.WrittenDataSet, model=manifest.model).replies
    ]
    found = [one for one in of_model if one.place == address]
    found = found or [one for one in of_model if one.digest == digest_of(manifest)]
    if not found:
        raise DataSetError(
            f"the server knows of no data set {place}",
            why="it was neither written there, nor does any have this manifest",
            next_step="if it is a copy, remove it and copy it again from where it was purged",
        )
    return found[0]
