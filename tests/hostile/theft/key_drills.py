"""`./dev soak key-drills`: the keys of a fleet are replaced while it runs, one role after the other. Every device that is online follows,
those that were offline do when they return, and what the old key signs is refused.

Devices are the agent's own verifier with a state folder each, on a real server without a network. What is signed with a stolen key is the
best that its thief can send: a document with a higher number, or the role's newest file with the old key's signature, to a device that lost
its cache.
"""

import random
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_agent.identity.store import ROOT_FILE
from edgefleet_agent.install.records import DesiredOk
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_agent.verifier.errors import code_of
from edgefleet_protocol.desired import decode_desired, encode_desired
from edgefleet_protocol.envelope import Envelope, Signature, dump_envelope, pae, parse_envelope
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.keys.signer_uris import KeySigner
from tests.server.fleet.house import PROFILE, House, TurnedClock

MODEL: Final = "digits"
ROLES: Final = ("director", f"m.{MODEL}", "releases", "snapshot", "timestamp", "targets")
OFFLINE: Final = 0.1
"""Share of the devices that are away while a role gets its key."""
MEMORY: Final = Path("/dev/shm")  # a folder of its own is made in it
"""Where states of devices are: nothing here is about disks, and a thousand devices sync theirs often."""
AHEAD: Final = 1_000
"""How much higher the thief's numbers are."""


@dataclass
class Drilled:
    """One device: its state folder, and what it is told."""

    id: DeviceId
    state: Path
    house: House
    follows: int = 0
    problems: list[str] = field(default_factory=list)

    def take(self, raw: bytes, forged: Mapping[str, bytes] | None = None) -> str:
        """Verify a document; return the code of the refusal, also that of its bundle, "" when all was taken. forged: files by role."""

        def source(name: str, _most: int) -> bytes | None:
            role = name.removesuffix(".json").partition(".")[2] if name != "timestamp.json" else "timestamp"
            return (forged or {}).get(role) or self.house.signing.metadata_file(name)

        task = Task(
            kind="desired",
            state_dir=str(self.state),
            device=self.id,
            repo_head=b"",
            meta_timeout_s=1,
            block_timeout_s=1,
            no_progress_s=1,
        )
        try:
            found: DesiredOk = Documents(task, source, self.house.clock).desired(raw)
        except EdgefleetError as error:
            return code_of(error)
        return found.refused[0].code if found.refused else ""

    def newest(self) -> bytes:
        """Return what the server has for it."""
        found = self.house.fleet.documents.of_device(self.id)
        assert found is not None
        return found.envelope


class Drill:
    """A fleet that runs a release."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        """Enrol devices and let each take its first document."""
        self.chance = random.Random(seed)
        self.house = House(
            f"sqlite:///{folder / 'a.db'}", folder / "server", TurnedClock(SystemClock().now().replace(microsecond=0))
        )
        release = self.house.release(f"{MODEL}@1.0.0", bundles={PROFILE: b"a bundle"})
        root = self.house.signing.root_chain()[0]
        self.devices = [self._device(folder / "devices" / str(at), root) for at in range(count)]
        self.house.fleet.deployer.deploy(release, selector="")
        self.away: list[Drilled] = []
        for one in self.devices:
            code = one.take(one.newest())
            assert not code, code

    def _device(self, state: Path, root: bytes) -> Drilled:
        (state / "identity").mkdir(parents=True)
        (state / "identity" / ROOT_FILE).write_bytes(root)
        return Drilled(self.house.device().id, state, self.house)

    def replace(self, role: str, *, is_stolen: bool) -> dict[str, Any]:
        """Replace the keys of a role; return how many devices follow, and what the old key is still good for."""
        begun = time.monotonic()
        stolen = self.house.signing._ring.signer(self.house.signing.role(role).keys[0])
        self.house.clock.turn(seconds=2)
        if is_stolen:
            _, finish = self.house.signing.keys.revoke(role, KeyOrder())
            finish()
        else:
            self.house.signing.keys.rotate(role, KeyOrder())
        self.house.signing.note_keys()
        while self.house.fleet.desired.resign_for_key():
            pass
        back, self.away = self.away, [one for one in self.devices if self.chance.random() < OFFLINE]
        gone = {one.id for one in self.away}
        online = [one for one in self.devices if one.id not in gone]
        codes = [self.offer(one, role) for one in online]
        taken = [self.steal(one, role, stolen) for one in online]
        after = [self.offer(one) for one in online]
        return {
            "online": len(online),
            "followed": sum(not first and not last for first, last in zip(codes, after, strict=True)),
            "returned": sum(one.id not in gone for one in back),
            "stolen_refused": sum(bool(code) for code in taken),
            "refusals": sorted({*taken}),
            "revoked": is_stolen,
            "seconds": round(time.monotonic() - begun, 1),
        }

    def offer(self, device: Drilled, role: str = "") -> str:
        """Send a device a document; that of a new director's key was signed by itself. Return the code of the refusal."""
        if role != "director":
            self.house.fleet.desired.resign(device.id)
        return device.take(device.newest())

    def steal(self, device: Drilled, role: str, stolen: KeySigner) -> str:
        """Send a device what the old key signs; return the code of the refusal."""
        raw = device.newest()
        if role == "director":
            return device.take(_forged_document(raw, stolen))
        self.house.fleet.desired.resign(device.id)
        shutil.rmtree(device.state / "tuf", ignore_errors=True)
        newest = self.house.signing.role(role).version
        name = "timestamp.json" if role == "timestamp" else f"{newest}.{role}.json"
        data = self.house.signing.metadata_file(name)
        assert data is not None
        metadata = Metadata[Targets].from_bytes(data)
        metadata.sign(stolen)  # type: ignore[arg-type]
        return device.take(device.newest(), {role: metadata.to_bytes()})


def _forged_document(raw: bytes, stolen: KeySigner) -> bytes:
    envelope = parse_envelope(raw)
    document = decode_desired(envelope.payload)
    payload = encode_desired(msgspec.structs.replace(document, gen=document.gen + AHEAD))
    signature = stolen.sign_bytes(pae(envelope.payload_type, payload))
    return dump_envelope(
        Envelope(envelope.payload_type, payload, (Signature(keyid=stolen.public_key.keyid, sig=signature),))
    )


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Replace the keys of every role on n devices, every second as stolen; ok when all online ones followed and no theft worked."""
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="ef-drill-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        drill = Drill(Path(name), n, seed)
        for at, role in enumerate(ROLES):
            rows[role] = drill.replace(role, is_stolen=at % 2 == 0)
            print(f"{role}: {rows[role]}", file=sys.stderr, flush=True)
        last = [one.take(one.newest()) for one in drill.away]
        drill.house.db.dispose()
    is_ok = all(row["followed"] == row["stolen_refused"] == row["online"] for row in rows.values()) and not any(last)
    return {"ok": is_ok, "devices": n, "returned_at_the_end": len(last), "roles": rows}
