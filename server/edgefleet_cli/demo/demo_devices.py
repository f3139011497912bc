"""The demo's devices: real agent processes with a state folder each, and the user who sends them images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.subprocesses import python_module
from edgefleet_cli.demo.example import MODEL, Images
from edgefleet_cli.demo.processes import ChildError, ProcessGroup, read_json

_SHORT_CHARACTERS = 50
"""Agents keep their sockets in their state folders when the demo's folder has at most so many (Linux takes 107 bytes)."""
_SOCKETS_ROOT_CHARACTERS = 55
"""Below a temporary folder of this length the agents' own folder and socket names still fit."""
_BATCH = 10
_ENROL_S = 60.0
_START_S = 60.0
_POLL_S = 0.1
_SENDERS = 4


class InferenceError(CliError):
    """A device did not answer an image."""

    code = "demo.inference"


@dataclass(frozen=True)
class Device:
    """One device of the demo; `id` and the addresses are known once it runs."""

    name: str
    display_name: str
    profile: str
    state_dir: Path
    id: str = ""
    infer_url: str = ""
    infer_socket: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as `demo.json` holds it."""
        return {
            "id": self.id,
            "profile": self.profile,
            "state_dir": str(self.state_dir),
            "infer_url": self.infer_url,
            "infer_socket": self.infer_socket,
        }


def agent_environment(home: ProcessGroup, folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the settings of the demo's agents: a free port each, since they share a machine; a short probation, and
    figures every few seconds. more: further settings.

    Agents put sockets below the temporary folder when their state folder's path is long: then that is a short folder of
    the demo, so that they fit, and nothing stays behind even of an agent that was killed.
    """
    environment = {
        "EDGEFLEET_AGENT_INFER_PORT": "0",
        "EDGEFLEET_AGENT_PROBATION_S": "3",
        "EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S": "3",
        **(more or {}),
    }
    if len(str(folder)) > _SHORT_CHARACTERS:
        places = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - mkdtemp makes a private folder there
        above = next((place for place in places if len(place) < _SOCKETS_ROOT_CHARACTERS - 20), None)
        environment["TMPDIR"] = tempfile.mkdtemp(prefix="edgefleet-", dir=above)
        home.remove_at_end(Path(environment["TMPDIR"]))
    return environment


def enrol(home: ProcessGroup, devices: list[Device], tokens: list[str], environment: Mapping[str, str]) -> None:
    """Enrol each device with its claim token, all at the same time. Raises ChildError."""
    running = []
    for device, token in zip(devices, tokens, strict=True):
        device.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # "-": the token comes on standard input, so that it does not show in the list of processes.
        command = python_module(
            "edgefleet_agent", "enroll", "-", "--state", str(device.state_dir), "--name", device.display_name
        )
        running.append(home.start(f"{device.name}-enroll", command, environment, feed=token + "\n"))
    home.wait(running, _ENROL_S)


def start(
    home: ProcessGroup, clock: SystemClock, devices: list[Device], environment: Mapping[str, str]
) -> list[Device]:
    """Start the agents and return the devices with their ids and the addresses of their local API. Raises ChildError."""
    for device in devices:
        home.start(device.name, python_module("edgefleet_agent", "run", "--state", str(device.state_dir)), environment)
    deadline_s = clock.monotonic_s() + _START_S
    found: dict[str, Device] = {}
    while len(found) < len(devices):
        home.check()
        for device in devices:
            status = _status(device)
            if device.name not in found and status is not None:
                found[device.name] = replace(
                    device,
                    id=str(status["device"]),
                    infer_url=str(status["infer_url"]),
                    infer_socket=str(status["infer_socket"]),
                )
        if clock.monotonic_s() > deadline_s:
            missing = ", ".join(device.name for device in devices if device.name not in found)
            raise ChildError(f"not all devices have started: {missing}", why="no status after a minute")
        clock.sleep(_POLL_S)
    return [found[device.name] for device in devices]


def measure(devices: list[Device], images: Images) -> dict[str, float]:
    """Show all images to every device through its local API; return the share of right answers by device id."""
    with ThreadPoolExecutor(_SENDERS) as pool:
        shares = list(pool.map(lambda device: _share_right(device, images), devices))
    return {device.id: share for device, share in zip(devices, shares, strict=True)}


def _share_right(device: Device, images: Images) -> float:
    right = 0
    with httpx.Client(base_url=device.infer_url, timeout=30.0) as http:
        for first in range(0, len(images), _BATCH):
            pixels = images.pixels[first : first + _BATCH]
            wanted = images.labels[first : first + _BATCH]
            logits = infer(http, device, pixels)
            right += sum(_is_right(row, int(y)) for row, y in zip(logits, wanted, strict=True))
    return right / len(images)


def _is_right(row: list[float | None], label: int) -> bool:
    numbers = [value for value in row if value is not None]
    return len(numbers) == len(row) and max(range(len(row)), key=numbers.__getitem__) == label


def infer(http: httpx.Client, device: Device, pixels: Any, trace_id: str = "") -> list[list[float | None]]:
    """Return logits, one list an image; None is not a number. trace_id: of the answer, "" = the device's choice. Raises InferenceError.

    Open Inference Protocol v2, JSON tensors in row-major order.
    """
    tensor = {
        "name": "image",
        "shape": list(pixels.shape),
        "datatype": "FP32",
        "data": [float(value) for value in pixels.ravel()],
    }
    try:
        response = http.post(
            f"/v2/models/{MODEL}/infer",
            json={"inputs": [tensor]},
            headers={"x-edgefleet-trace": trace_id} if trace_id else {},
        )
    except httpx.HTTPError as error:
        raise InferenceError(f"{device.id} does not answer", why=str(error) or type(error).__name__) from error
    if not response.is_success:
        raise InferenceError(f"{device.id} answers {response.status_code}", why=response.text[:200])
    output = response.json()["outputs"][0]
    _, classes = output["shape"]
    flat = output["data"]
    return [flat[at : at + classes] for at in range(0, len(flat), classes)]


def infer_url_of(device: Device) -> str:
    """Return where a device answers now, by its own status; where it answered before when it has none."""
    status = _status(device)
    return device.infer_url if status is None else str(status["infer_url"])


def _status(device: Device) -> dict[str, Any] | None:
    status = read_json(device.state_dir / "run" / "status.json")
    return status if status and status.get("infer_url") else None
