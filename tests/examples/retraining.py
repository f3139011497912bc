"""Runs the command of an example's page as a runner does: on a data set as `edgectl` writes it, of records as a device captures them."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefleet_cli.datasets.bundle_facts import facts_of
from edgefleet_cli.datasets.dataset_writer import write_data_set
from edgefleet_cli.datasets.model import DataFormat, DataSetManifest, Record
from edgefleet_cli.datasets.places import FolderPlace
from edgefleet_cli.datasets.samples import Labels
from edgefleet_protocol.bundle import open_bundle
from tests.agent.worker.models import bundle_bytes
from tests.cli.datasets.planted import SHA256, captured, record
from tests.house.pages import shell_blocks
from tests.house.tree import ROOT

MEMBERS = ("labels.txt", "preprocess.json", "postprocess.json", "privacy.json")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Threads of small products only wait for one another."""
Row = tuple[str, np.ndarray[Any, Any]]
"""Trace id, and the model's input with one sample."""


@dataclass(frozen=True)
class Retraining:
    """A run of the command. out: what it left; said: its lines; manifest: of the data set that it read."""

    out: Path
    said: str
    manifest: DataSetManifest


def command_of(example: Path, named: Mapping[str, str]) -> list[str]:
    """Return what `edgectl retrain worker` runs, as the example's page says. named: other names for files of the page."""
    page = (example / "README.md").relative_to(ROOT)
    (line,) = [b.text for b in shell_blocks(page) if b.text.startswith("edgectl retrain worker")]
    python, *rest = shlex.split(line.partition(" -- ")[2])
    assert python == "python"
    return [sys.executable, "-B", "-W", "ignore", *(named.get(word, word) for word in rest)]


def records_of(example: Path, model: str, rows: Iterable[Row]) -> list[Record]:
    """Return what a device captures of these rows under the example's own bundle, opened."""
    there = {name: (example / name).read_bytes() for name in MEMBERS if (example / name).exists()}
    (input_name,) = [one["name"] for one in json.loads(there["preprocess.json"])["inputs"]]
    known = list(rows)
    bundle = bundle_bytes((example / model).read_bytes(), golden_inputs=known[0][1], extra=there)
    said = facts_of(open_bundle(io.BytesIO(bundle)), SHA256)
    policy = json.loads(there["privacy.json"])
    return [
        record(said, captured(said, policy, {input_name: x}), number, trace_id=trace)
        for number, (trace, x) in enumerate(known)
    ]


def retrained(
    example: Path,
    model: str,
    records: Sequence[Record],
    labels: Labels,
    folder: Path,
    named: Mapping[str, str] = {},
) -> Retraining:
    """Write records with their labels, and run the page's command on them."""
    manifest = write_data_set(records, labels, DataFormat.NPZ, FolderPlace(folder / "data", False))
    parent, out = folder / "parent", folder / "out"
    shutil.copytree(example / "data", parent)
    for name in MEMBERS:
        if (example / name).exists():
            shutil.copy(example / name, parent / name)
    shutil.copy(example / model, parent / "model.onnx")
    out.mkdir()
    environment = {"RUN": "rt-1", "DATA_SET": str(folder / "data"), "PARENT": str(parent), "OUT": str(out)}
    done = subprocess.run(
        command_of(example, named),
        cwd=ROOT,
        env=os.environ | ONE_THREAD | {f"EDGEFLEET_{name}": value for name, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Retraining(out, done.stdout, manifest)
