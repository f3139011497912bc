"""Records, what their release says of them, samples, and the manifest of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.structs import Struct
from edgefleet_protocol.manifest import TensorSpec

MANIFEST: Final = "dataset.json"
NO_CLASS: Final = -1


class DataSetError(CliError):
    """A data set cannot be written, read or changed."""

    code = "cli.data_set"


class DataFormat(StrEnum):
    """How a data set is written."""

    FOLDER = "folder"
    NPZ = "npz"
    PARQUET = "parquet"
    COCO = "coco"


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers of one field, row-major, little-endian. dtype: as numpy writes it, `<f4`."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Value = Array | tuple[str, ...] | str
"""Of a field: numbers, hashes of all its values, or one hash."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What `privacy.json` keeps. fields: rules by name, as they stand there; digest: of the file, "" where the bundle has none."""

    fields: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    outputs: bool = True
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What a bundle says of its records. recipes: by input, as in `preprocess.json`; columns: the input of each column.

    postprocess: the file of a model whose answers are boxes, b"" for others.
    """

    model: str
    release: str
    bundle: str
    policy: Policy
    inputs: Mapping[str, TensorSpec]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    postprocess: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """One opened record. fields, outputs: as the device packed them; answer: the class that the model gave, -1 without one."""

    id: str
    device: str
    trace_id: str
    reason: str
    seen: int
    taken_at: str
    answer: int
    fields: Mapping[str, Any]
    outputs: Mapping[str, Any]
    facts: ReleaseFacts


@dataclass(frozen=True, slots=True)
class Box:
    """An object that the model found: class, score, and its sides as shares of the picture: left, top, right, bottom."""

    label: str
    index: int
    score: float
    sides: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a record, checked. id: the record's, with a number from the second sample on. label: ground truth, None without."""

    id: str
    record: Record
    values: Mapping[str, Value]
    answer: int = NO_CLASS
    label: str | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def label_index(self) -> int:
        """The class of the label, -1 where it is none."""
        return class_of(self.label, self.record.facts.labels)

    @property
    def label_value(self) -> float:
        """The label as a number, NaN where it is a class or there is none."""
        if self.label is None or self.label in self.record.facts.labels:
            return float("nan")
        try:
            return float(self.label)
        except ValueError:
            return float("nan")


def class_of(label: str | None, names: tuple[str, ...]) -> int:
    """Return the number of a class by its name or its number, -1 when it is none."""
    if label is None:
        return NO_CLASS
    if label in names:
        return names.index(label)
    return int(label) if label.isdecimal() and len(label) < 10 and (not names or int(label) < len(names)) else NO_CLASS


def name_of(label: str, names: tuple[str, ...]) -> str:
    """Return a label by the name of its class, where there are names."""
    index = class_of(label, names)
    return names[index] if 0 <= index < len(names) else label


class RecordEntry(Struct, frozen=True, kw_only=True):
    """One record in a manifest. sha256: of its values as they were written; samples: how many it is."""

    id: str
    device: str
    trace_id: str
    reason: str
    release: str
    label: str | None = None
    seen: int = 1
    samples: int = 1
    fields: tuple[str, ...] = ()
    sha256: str = ""


class ReleaseEntry(Struct, frozen=True, kw_only=True):
    """A release of which there are records. policy: sha256 of its `privacy.json`, "" where it has none."""

    release: str
    bundle: str
    policy: str


class DataSetManifest(Struct, frozen=True, kw_only=True):
    """`dataset.json`. fields: how many records have each; left_out: what the policy does not keep, by field; files: sha256 by name.

    without_fields: records of which the policy keeps nothing; they are not in it.
    """

    v: int = 1
    model: str
    release: str
    format: str
    records: tuple[RecordEntry, ...]
    releases: tuple[ReleaseEntry, ...]
    fields: dict[str, int]
    left_out: dict[str, int]
    without_fields: int
    reasons: dict[str, int]
    labels: dict[str, int]
    unlabelled: int
    files: dict[str, str]
    tool: str
