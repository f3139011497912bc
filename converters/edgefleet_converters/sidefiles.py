"""The files next to a model that go into the bundle: labels, pre- and postprocessing, privacy policy, drift reference.

They are checked here so that a device never gets one it cannot use.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from edgefleet_converters.errors import LabelsError, SideFileError
from edgefleet_converters.request import DataFiles
from edgefleet_protocol.drift.reference import MEMBER
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_protocol.run_schedule import SCHEDULE_MEMBER, TZ_DEVICE, read_schedule
from edgefleet_runtime.postprocess import build_postprocessor, parse_postprocess
from edgefleet_runtime.preprocess import Preprocess, check_against, default_preprocess, parse_preprocess, probe
from edgefleet_runtime.privacy import check_against as check_policy
from edgefleet_runtime.privacy import parse_privacy

_MAX_BYTES: Final = 16 * 1024 * 1024


def read_side_files(
    files: DataFiles,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    own_labels: Sequence[str] = (),
    own_columns: Sequence[str] = (),
) -> dict[str, bytes]:
    """Return the given side files by the name of their bundle member, checked. Raises SideFileError, LabelsError. Reads files.

    own_labels: class names that the model itself brings; they count where no labels are given and an output has as many classes.
    own_columns: names of the features that it was trained on; they count where no preprocess.json is given.
    """
    members: dict[str, bytes] = {}
    labels: list[str] = []
    if files.labels:
        text = _read(files.labels, "labels.txt")
        labels = _checked_labels(text, outputs)
        members["labels.txt"] = ("\n".join(labels) + "\n").encode()
    for name, path in (
        ("preprocess.json", files.preprocess),
        ("postprocess.json", files.postprocess),
        ("privacy.json", files.privacy),
        (SCHEDULE_MEMBER, files.schedule),
    ):
        if path:
            members[name] = _read(path, name)
    if "preprocess.json" not in members and _are_columns(own_columns, inputs):
        recipe = {"name": inputs[0].name, "from": "columns", "columns": list(own_columns)}
        members["preprocess.json"] = msgspec.json.encode({"v": 1, "inputs": [recipe]})
    _check_against_runtime(members, inputs, outputs, labels)
    if not labels and _label_an_output(own_labels, members.get("postprocess.json"), outputs):
        members["labels.txt"] = ("\n".join(own_labels) + "\n").encode()
    if files.reference and not holds_samples(files.reference):
        members[MEMBER] = _read(files.reference, MEMBER)
    return members


def read_preprocess(files: DataFiles) -> Preprocess | None:
    """Return what the preprocess.json says, None without one. Raises SideFileError. Reads the file."""
    if not files.preprocess:
        return None
    try:
        return parse_preprocess(_read(files.preprocess, "preprocess.json"))
    except EdgefleetError as error:
        raise SideFileError(error.message, next_step=error.next_step or "compare with examples/digits") from error


def holds_samples(path: str) -> bool:
    """Say whether a drift reference is given as samples (`.npz`), from which it is made. Raises SideFileError. Reads the file."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise SideFileError(f"cannot read the drift reference: {error}", next_step="check the path") from error


def _read(path: str, name: str) -> bytes:
    try:
        if Path(path).stat().st_size > _MAX_BYTES:
            raise SideFileError(f"{name} is larger than {_MAX_BYTES} bytes", next_step="make it smaller")
        return Path(path).read_bytes()
    except OSError as error:
        raise SideFileError(f"cannot read {name}: {error}", next_step="check the path") from error


def _checked_labels(data: bytes, outputs: tuple[TensorSpec, ...]) -> list[str]:
    """Return the labels, one a line, in class order. Their number must be the width of one of the outputs."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LabelsError("labels.txt is not UTF-8 text", next_step="write one label a line in UTF-8") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or any(not line.strip() for line in lines):
        raise LabelsError("labels.txt has an empty line or no line at all", next_step="write one label a line")
    widths = {spec.shape[-1] for spec in outputs if spec.shape and isinstance(spec.shape[-1], int)}
    free = any(not spec.shape or isinstance(spec.shape[-1], str) for spec in outputs)
    fitting = widths | {width - 1 for width in widths if isinstance(width, int)}
    if (
        not free
        and len(lines) not in fitting
        and not (len(lines) == 2 and 1 in widths)
        and widths
        and not _detector(outputs)
    ):
        raise LabelsError(
            f"labels.txt has {len(lines)} labels, the model's outputs have {', '.join(sorted(map(str, widths)))}"
            " classes",
            next_step="give one label for each class, in the order of the output",
        )
    return [line.strip() for line in lines]


def _are_columns(names: Sequence[str], inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether names stand for the columns of the model's one input, [N, features]."""
    if len(inputs) != 1 or not names or len(set(names)) != len(names):
        return False
    return len(inputs[0].shape) == 2 and inputs[0].shape[1] == len(names)


def _label_an_output(labels: Sequence[str], post: bytes | None, outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether labels that the model brings can stand in labels.txt and fit one of its outputs and the postprocess.json."""
    if not any(spec.shape and spec.shape[-1] == len(labels) for spec in outputs):
        return False
    if any(not label.strip() or len(label.splitlines()) > 1 for label in labels):
        return False
    try:
        build_postprocessor(parse_postprocess(post) if post is not None else None, tuple(labels), outputs)
    except EdgefleetError:
        return False
    return True


def _detector(outputs: tuple[TensorSpec, ...]) -> bool:
    """Outputs of rank 3 hold boxes or steps next to class scores; their widths say nothing about the number of labels."""
    return any(len(spec.shape) >= 3 for spec in outputs)


def _check_zone(name: str) -> None:
    try:
        if name != TZ_DEVICE:
            ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError) as error:
        raise SideFileError(
            f"schedule.json: {name!r} is no time zone", next_step="write UTC, device or one like Europe/Berlin"
        ) from error


def _check_against_runtime(
    members: dict[str, bytes], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], labels: list[str]
) -> None:
    """Build the device's own pre- and postprocessor from the files; what it refuses here it would refuse on the device."""
    try:
        if "preprocess.json" in members:
            declared = parse_preprocess(members["preprocess.json"])
            check_against(declared, inputs)
            probe(declared, inputs)
        if "privacy.json" in members:
            pre = members.get("preprocess.json")
            declared = parse_preprocess(pre) if pre is not None else default_preprocess(inputs)
            check_policy(parse_privacy(members["privacy.json"]), declared, inputs)
        if SCHEDULE_MEMBER in members:
            _check_zone(read_schedule(members[SCHEDULE_MEMBER]).tz)
        post = members.get("postprocess.json")
        if post is not None or labels:
            build_postprocessor(parse_postprocess(post) if post is not None else None, tuple(labels), outputs)
    except EdgefleetError as error:
        raise SideFileError(error.message, next_step=error.next_step or "compare with examples/digits") from error
    except RecursionError as error:
        raise SideFileError(
            f"a side file is nested too deep: {error}", next_step="compare with examples/digits"
        ) from error
