"""What `edgectl data export` does, step by step: list, open, join with ground truth, write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_cli.core.files import read_text
from edgefleet_cli.core.session import Session
from edgefleet_cli.datasets.data_set_notes import note_data_set
from edgefleet_cli.datasets.dataset_writer import encoded, write_data_set
from edgefleet_cli.datasets.dvc_add import add_to_dvc, check_dvc
from edgefleet_cli.datasets.model import DataFormat, DataSetManifest
from edgefleet_cli.datasets.places import place_of
from edgefleet_cli.datasets.record_source import Wanted, labels_of, listed, opened, together
from edgefleet_cli.datasets.samples import Labels
from edgefleet_cli.device.captures.capture_files import read_key
from edgefleet_cli.render.progress import count_bar

MOST_LABELS = 256 * 1024 * 1024


@dataclass(frozen=True)
class Exported:
    """A data set that was written. other_key: records that are sealed to another key."""

    manifest: DataSetManifest
    other_key: int

    @property
    def document(self) -> dict[str, Any]:
        """The manifest as `dataset.json` has it."""
        found: dict[str, Any] = json.loads(encoded(self.manifest))
        return found


@dataclass(frozen=True)
class ExportOrder:
    """How a data set is written. key: file of the private key; labels_file: more ground truth; replace: an earlier data set.

    is_noted: whether the server is told of it: not of one that goes again at once.
    """

    key: Path
    out: str
    format_: DataFormat
    environ: Mapping[str, str]
    labels_file: Path | None = None
    with_labels: bool = True
    dvc: bool = False
    replace: bool = False
    is_noted: bool = True


def export_data_set(session: Session, wanted: Wanted, order: ExportOrder) -> Exported:
    """Write what was captured of a model as a data set. Raises UsageError, ApiError, SealedError, DataSetError, MissingPartError."""
    private_key = read_key(order.key)
    place = place_of(order.out, order.environ, replace=order.replace)
    program = check_dvc(order.out, order.environ) if order.dvc else []
    own = labels_of(read_text(order.labels_file, MOST_LABELS)) if order.labels_file is not None else {}
    found = listed(session.api, wanted)
    with count_bar(session.out, "records", len(found)) as advance:
        records = opened(session.api, found, private_key, advance)
    labels: Labels = together(records.labels, own) if order.with_labels else {}
    manifest = write_data_set(
        records.records,
        labels,
        order.format_,
        place,
        finish=lambda made: note_data_set(session.api, made, place, wanted.run) if order.is_noted else None,
    )
    if order.dvc:
        add_to_dvc(program, Path(order.out), order.environ)
    return Exported(manifest, records.other_key)
