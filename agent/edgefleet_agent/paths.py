"""Where things lie in the state folder. One place, so that every process means the same file.

agent.toml  identity/  identity/next/  tuf/  floor.a floor.b  desired.ok  hold.ok  shards.ok  queue/q.db  agent.lock  logs/agent.log
tasks.ok  predictions/*.log  predictions/parts/<model>/{state,open,*.part}  feedback.ok  capture/*.cap  capture.salt
models/<name>/current.msgpack  models/<name>/{A,B}/{bundle,slot.msgpack,bundle.part,bundle.bits}  models/<name>/active -> A
model-key  tpm-key  models/<model>/candidate.msgpack  shadow/<model>.msgpack  drift/<model>.<digest>.{watch,reference}
run/status.json  run/routes.json  run/infer.sock  run/<model>.<lane>.<slot>.sock  run/<model>.recording
run/counts/<pid>.count  batch/<model>/{in,out,.state,.lock}
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 100
"""Linux takes 107 bytes. The temporary name that a listener is made under is shorter than this of a worker (`listen_unix`)."""

MAX_SOCKET_STEM = 16
"""Characters of a model name in the name of its worker's socket."""


SYSTEM_STATE = Path("/var/lib/edgefleet-agent")
"""Of the Debian package and the systemd unit."""

STATE_NAMES = (
    "agent.toml", "identity", ".identity.new", "pending-key.pem", "tuf", "floor.a", "floor.b", "desired.ok", "hold.ok", "queue",
    "agent.lock", "logs", "tasks.ok", "predictions", "feedback.ok", "capture", "capture.salt", "models", "shadow", "drift", "run",
    "model-key", "tpm-key", "batch", "shards.ok",
)  # fmt: skip
"""All that the agent puts into its state folder."""


def default_state(environment: Mapping[str, str] = os.environ, system: Path = SYSTEM_STATE) -> Path:
    """Return the state folder when none is named: EDGEFLEET_AGENT_STATE; else that of an installed service, where it exists and this
    user may write there; else the user's own, `$XDG_STATE_HOME/edgefleet-agent` or `~/.local/state/edgefleet-agent` (ADR 0075).
    """
    if named := environment.get("EDGEFLEET_AGENT_STATE"):
        return Path(named)
    if os.access(system, os.W_OK | os.X_OK):
        return system
    home = environment.get("XDG_STATE_HOME", "")
    base = (
        Path(home)
        if Path(home).is_absolute()
        else Path(environment.get("HOME") or "~").expanduser() / ".local" / "state"
    )
    return base / "edgefleet-agent"


def state_flag(state: Path) -> str:
    """Return ` --state DIR` as a command that is suggested needs it: nothing for the default folder."""
    return "" if state.absolute() == default_state().absolute() else f" --state {state}"


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Paths under one state folder."""

    root: Path

    @property
    def settings(self) -> Path:
        """Settings as TOML; may be missing."""
        return self.root / "agent.toml"

    @property
    def identity(self) -> Path:
        """Folder with key, certificates, pinned root and `identity.msgpack`."""
        return self.root / "identity"

    @property
    def model_key(self) -> Path:
        """Private key, raw X25519, that keys of sealed bundles come sealed to."""
        return self.root / "model-key"

    @property
    def tuf(self) -> Path:
        """ngclient's cache of metadata; expendable."""
        return self.root / "tuf"

    @property
    def desired_ok(self) -> Path:
        """The verified fields of the last accepted desired document."""
        return self.root / "desired.ok"

    @property
    def hold_ok(self) -> Path:
        """The verified fields of the last accepted hold."""
        return self.root / "hold.ok"

    @property
    def shards_ok(self) -> Path:
        """It says 1 while hold and head are heard in the shard."""
        return self.root / "shards.ok"

    @property
    def outbox(self) -> Path:
        """SQLite file with everything still to be sent to the server."""
        return self.root / "queue" / "q.db"

    @property
    def predictions(self) -> Path:
        """Folder of the prediction log."""
        return self.root / "predictions"

    @property
    def feedback(self) -> Path:
        """Which answers had their label already."""
        return self.root / "feedback.ok"

    @property
    def prediction_parts(self) -> Path:
        """Folder with a folder for each model whose answers are kept and sent."""
        return self.predictions / "parts"

    @property
    def captures(self) -> Path:
        """Folder of captured records, each sealed to the tenant's key."""
        return self.root / "capture"

    @property
    def capture_salt(self) -> Path:
        """Secret of this device for hashed fields of captured records."""
        return self.root / "capture.salt"

    @property
    def log(self) -> Path:
        """What agentd and its children said, bounded (`logfile`)."""
        return self.root / "logs" / "agent.log"

    @property
    def tasks_done(self) -> Path:
        """Which tasks of desired documents were done, and with which outcome."""
        return self.root / "tasks.ok"

    @property
    def lock(self) -> Path:
        """Locked by the one agent that works here."""
        return self.root / "agent.lock"

    @property
    def run(self) -> Path:
        """What is true only while the agent runs."""
        return self.root / "run"

    @property
    def status(self) -> Path:
        """The running agent's view of itself, JSON, replaced whole."""
        return self.run / "status.json"

    @property
    def routes(self) -> Path:
        """Routing table of the workers."""
        return self.run / "routes.json"

    @property
    def models(self) -> Path:
        """One folder per model."""
        return self.root / "models"

    def kept(self, model: str) -> Path:
        """The inputs on which a model and its shadow disagreed most."""
        return self.root / "shadow" / f"{model}.msgpack"

    @property
    def drift(self) -> Path:
        """What is known of the drift of each version, and what the device learned of those without a reference."""
        return self.root / "drift"

    @property
    def batch(self) -> Path:
        """By model, what is asked on a schedule, and its answers."""
        return self.root / "batch"

    def recording(self, model: str) -> Path:
        """Copies of answered requests, for a shadow that is not resident."""
        return self.run / f"{model}.recording"

    def sockets(self) -> Path:
        """Folder for unix sockets: `run/`, or a short one under the temporary folder when a path would be too long.

        The agent removes its sockets, and a folder that is not `run/`, when it ends.
        """
        longest = self.run / f"{'m' * MAX_SOCKET_STEM}.candidate.A.sock"
        if len(os.fsencode(longest.absolute())) <= MAX_SOCKET_PATH_BYTES:
            return self.run
        digest = hashlib.sha256(str(self.root.absolute()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"edgefleet-{digest}"


def learned_reference(folder: Path, model: str, sha256: str) -> Path:
    """Return the file of the drift reference that this device learned of a version."""
    return folder / f"{model}.{sha256[:16]}.reference"


def worker_socket(folder: Path, model: str, lane: str, slot: str) -> Path:
    """Return the socket of one worker. A long model name becomes `~` and its digest, which is
    no model name, so that every path stays usable and two models never share one.
    """
    short = len(model) <= MAX_SOCKET_STEM
    stem = model if short else "~" + hashlib.sha256(model.encode()).hexdigest()[: MAX_SOCKET_STEM - 1]
    return folder / f"{stem}.{lane}.{slot}.sock"
