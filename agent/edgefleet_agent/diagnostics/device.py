"""What the commands read of one state folder: records, status of the running agent, settings. Reads only."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.errors import AgentNotRunningError, StateFileError, UnknownModelError, WhichModelError
from edgefleet_agent.install.records import ModelRecord
from edgefleet_agent.install.slots import BUNDLE_FILE
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.status import read_status
from edgefleet_protocol.errors import EdgefleetError

RECORD_FILE = "current.msgpack"


@dataclass(frozen=True)
class Device:
    """A state folder as found. status: of the running agent, None when none runs. unreadable: model → why."""

    paths: StatePaths
    status: dict[str, Any] | None
    records: dict[str, ModelRecord]
    unreadable: dict[str, str] = field(default_factory=dict)

    def serving_model(self, name: str = "") -> dict[str, Any]:
        """Return the status of one model that serves; `name` may be "" where there is one.

        Raises AgentNotRunningError, UnknownModelError, WhichModelError.
        """
        if self.status is None:
            raise AgentNotRunningError(f"no agent runs on {self.paths.root}")
        serving = {m["model"]: m for m in self.status["models"] if m["serving"]}
        if name and name not in serving:
            raise UnknownModelError(f"no model {name!r} serves on this device")
        if not serving:
            raise UnknownModelError("no model serves on this device")
        if not name and len(serving) > 1:
            raise WhichModelError(
                f"{len(serving)} models serve on this device: {', '.join(sorted(serving))}", next_step="name one"
            )
        found: dict[str, Any] = serving[name or next(iter(serving))]
        return found

    def bundle_path(self, model: dict[str, Any]) -> Path:
        """Return the file that a model of the status serves from."""
        return self.paths.models / str(model["model"]) / str(model["slot"]) / BUNDLE_FILE


def look(state: Path) -> Device:
    """Return what is on `state`. Raises OSError for a folder that may not be read."""
    paths = StatePaths(state)
    try:
        status = read_status(state)
    except EdgefleetError:
        status = None
    records: dict[str, ModelRecord] = {}
    unreadable: dict[str, str] = {}
    folders = sorted(paths.models.iterdir()) if paths.models.is_dir() else []
    for folder in folders:
        try:
            record = read_record(ModelRecord, folder / RECORD_FILE)
        except (StateFileError, OSError) as error:
            unreadable[folder.name] = str(error)
            continue
        if record is not None:
            records[folder.name] = record
    return Device(paths, status, records, unreadable)


def plain(record: msgspec.Struct) -> Any:
    """Return a record as plain data."""
    return msgspec.to_builtins(record)


def as_json(value: Any) -> str:
    """Return plain data as indented JSON; what JSON does not know is written as text."""
    return json.dumps(value, indent=1, default=str)
