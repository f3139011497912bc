"""`./dev soak key-drills`: the keys of a fleet are replaced while it runs, one role after the other. Every device that is online follows,
those that were offline do when they return, and what the old key signs is refused.

First a trial, whose keys are all on the server. Then the trial's root key is taken for stolen: root and targets go to three holders. Then a
team takes the model over; its keys are replaced, the director's by the holders, and two of the three holders.

Devices are the agent's own verifier with a state folder each, on a real server without a network. What is signed with a stolen key is the
best that its thief can send: a document with a higher number, a root that names a key of his own, or the role's newest file with the old
key's signature, to a device that lost its cache. Before the keys are replaced a copy of one device takes just that: a control.
"""

import datetime as dt
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented there, but not in __all__
from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_agent.identity.store import ROOT_FILE
from edgefleet_agent.install.records import DesiredOk
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_agent.verifier.errors import code_of
from edgefleet_cli.keys.holder_folder import read_signers
from edgefleet_protocol.desired import decode_desired, encode_desired
from edgefleet_protocol.envelope import Envelope, Signature, dump_envelope, pae, parse_envelope
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.clock import SystemClock
from edgefleet_server.fleet.desired.content import DESIRED_LIFE
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.keys.signer_uris import KeySigner
from edgefleet_server.signing.repository import SERIALIZER
from tests.server.fleet.house import PROFILE, House, TurnedClock
from tests.support.holders import NAMES, PASSPHRASE, answer, hold_ceremony, media, public
from tests.support.teams import form_team, member

Signer = KeySigner | CryptoSigner

MODEL: Final = "digits"
ROLES: Final = ("director", f"m.{MODEL}", "releases", "snapshot", "timestamp", "targets")
TRIAL, TEAM, DIRECTOR, HOLDERS = (
    "root of a trial",
    "team of 2 of 3",
    "director, by holders",
    "root, two of three holders",
)
DRILLS: Final = (*ROLES, TRIAL, TEAM, DIRECTOR, HOLDERS)
ROLE_OF: Final = {TRIAL: "root", HOLDERS: "root", TEAM: f"m.{MODEL}", DIRECTOR: "director"}
OFFLINE: Final = 0.1
"""Share of the devices that are away while a role gets its key."""
MEMORY: Final = Path("/dev/shm")  # a folder of its own is made in it
"""Where states of devices are: nothing here is about disks, and a thousand devices sync theirs often."""
LOST: Final = {"anna": "dora", "ben": "eve"}
"""Holders whose keys are stolen, and who takes their place."""
AHEAD: Final = 1_000
"""How much higher the thief's numbers are."""


@dataclass
class Drilled:
    """One device: its state folder, and what it is told."""

    id: DeviceId
    state: Path
    house: House
    files: Callable[[str], bytes | None]

    def take(self, raw: bytes, forged: Mapping[str, bytes] | None = None) -> str:
        """Verify a document; return the code of the refusal, also that of its bundle, "" when all was taken. forged: files by name."""

        def source(name: str, _most: int) -> bytes | None:
            return (forged or {}).get(name) or self.files(name)

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
        self.folder, self.media, self.read = folder, dict[str, Path](), dict[str, bytes | None]()
        self.team = [member() for _ in range(3)]
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
        return Drilled(self.house.device().id, state, self.house, self.file)

    def replace(self, drill: str, *, is_stolen: bool) -> dict[str, Any]:
        """Replace the keys of a role; return how many devices follow, and what the old keys are still good for."""
        begun, role = time.monotonic(), ROLE_OF.get(drill, drill)
        if drill == TEAM:
            self._take_over(self.team)
        stolen = self._copied(drill)
        worked = self._on_a_copy(role, stolen)
        self._replaced(drill, is_stolen=is_stolen)
        self.house.signing.note_keys()
        self.house.clock.turn(seconds=2)
        self.read.clear()
        while self.house.fleet.desired.resign_for_key():
            pass
        back, self.away = self.away, [one for one in self.devices if self.chance.random() < OFFLINE]
        gone = {one.id for one in self.away}
        online = [one for one in self.devices if one.id not in gone]
        if role != "director":  # all of that key's documents were just signed again
            self._sign_again()
        codes = [one.take(one.newest()) for one in online]
        taken = self._steal(online, role, stolen)
        self._sign_again()
        after = [one.take(one.newest()) for one in online]
        return {
            "online": len(online),
            "followed": sum(not first and not last for first, last in zip(codes, after, strict=True)),
            "returned": sum(one.id not in gone for one in back),
            "stolen_taken_before": not worked,
            "stolen_refused": sum(bool(code) for code in taken),
            "stolen_taken": sum(not code for code in taken),
            "refusals": sorted({*taken}),
            "revoked": is_stolen,
            "seconds": round(time.monotonic() - begun, 1),
        }

    def _copied(self, drill: str) -> list[Signer]:
        """Return the keys that a thief has copied: as many as sign the role today."""
        if drill == TEAM:
            return list(self.team[:2])
        if drill == HOLDERS:
            return [key for name in LOST for key in read_signers(self.media[name], lambda _what: PASSPHRASE)]
        ring = self.house.signing._ring
        if drill == TRIAL:
            return [ring.root_signer()]
        return [ring.signer(self.house.signing.role(ROLE_OF.get(drill, drill)).keys[0])]

    def _replaced(self, drill: str, *, is_stolen: bool) -> None:
        """Replace keys as an operator does: by what the commands `edgectl key rotate | revoke | ceremony | team` call."""
        signing = self.house.signing
        if drill == TRIAL:
            self.media = media(self.folder, NAMES)
            hold_ceremony(signing, self.media)
        elif drill == TEAM:
            self.team = [member(), member(is_ecdsa=True), member()]
            self._take_over(self.team)
        elif drill == DIRECTOR:
            signing.ceremony.renew_keys(["director"])
            self._answer()
        elif drill == HOLDERS:
            for old, new in LOST.items():
                self.media |= media(self.folder, [new], algorithm="ecdsa")
                signing.ceremony.replace_holder(old, public(self.media[new]))
                self._answer()
                del self.media[old]
        elif is_stolen:
            _, finish = signing.keys.revoke(drill, KeyOrder())
            finish()
        else:
            signing.keys.rotate(drill, KeyOrder())

    def _take_over(self, team: Sequence[CryptoSigner]) -> None:
        """Let a team take the model over, or another take its place: it signs, and the holders of targets do."""
        form_team(self.house.signing, MODEL, team, 2)
        self._answer()
        self.house.signing.teams.finish()

    def _answer(self) -> None:
        """Let every holder sign what waits; the server needs two, and each new one."""
        asked = self.house.signing.ceremony.waiting()
        assert asked is not None
        self.house.signing.ceremony.take(asked.id, [answer(asked, one) for one in self.media.values()])
        self.house.signing.ceremony.finish()

    def _on_a_copy(self, role: str, stolen: Sequence[Signer]) -> str:
        """Try what the keys sign on a copy of a device while they are good; return the code of the refusal."""
        first = self.devices[0]
        with TemporaryDirectory(dir=self.folder) as name:
            shutil.copytree(first.state, Path(name) / "state")
            copy = Drilled(first.id, Path(name) / "state", self.house, self.file)
            self._sign_again()
            return copy.take(copy.newest()) or self._steal([copy], role, stolen)[0]

    def file(self, name: str) -> bytes | None:
        """Return what the server has of its repository; asked once for each change."""
        if name not in self.read:
            self.read[name] = self.house.signing.metadata_file(name)
        return self.read[name]

    def _sign_again(self) -> None:
        """Sign all documents again, as at half of their lives."""
        self.house.clock.turn(seconds=2)
        self.read.clear()
        self.house.fleet.desired.resign_due(self.house.clock.now() + DESIRED_LIFE / 2 - dt.timedelta(seconds=1))

    def _steal(self, devices: Sequence[Drilled], role: str, stolen: Sequence[Signer]) -> list[str]:
        """Send devices what the old keys sign; return the codes of their refusals."""
        if role == "director":
            return [one.take(_forged_document(one.newest(), stolen[0])) for one in devices]
        self._sign_again()
        forged = self._forged_root(stolen) if role == "root" else self._forged_file(role, stolen)
        for one in devices:
            shutil.rmtree(one.state / "tuf", ignore_errors=True)
        return [one.take(one.newest(), forged) for one in devices]

    def _forged_file(self, role: str, stolen: Sequence[Signer]) -> dict[str, bytes]:
        """Return the role's newest file, signed by the thief."""
        name = "timestamp.json" if role == "timestamp" else f"{self.house.signing.role(role).version}.{role}.json"
        data = self.house.signing.metadata_file(name)
        assert data is not None
        metadata = Metadata[Targets].from_bytes(data)
        metadata.signatures.clear()
        for key in stolen:
            metadata.sign(cast("Any", key), append=True)
        return {name: metadata.to_bytes(SERIALIZER)}

    def _forged_root(self, stolen: Sequence[Signer]) -> dict[str, bytes]:
        """Return the next root, that the thief alone may sign from then on."""
        metadata = Metadata[Root].from_bytes(self.house.signing.root_chain()[-1])
        root, mine = metadata.signed, member()
        root.version += 1
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        root.add_key(mine.public_key, "root")
        root.roles["root"].threshold = 1
        metadata.signatures.clear()
        for key in (*stolen, mine):
            metadata.sign(cast("Any", key), append=True)
        return {f"{root.version}.root.json": metadata.to_bytes(SERIALIZER)}


def _forged_document(raw: bytes, stolen: Signer) -> bytes:
    envelope = parse_envelope(raw)
    document = decode_desired(envelope.payload)
    payload = encode_desired(msgspec.structs.replace(document, gen=document.gen + AHEAD))
    signature = bytes.fromhex(stolen.sign(pae(envelope.payload_type, payload)).signature)
    return dump_envelope(
        Envelope(envelope.payload_type, payload, (Signature(keyid=stolen.public_key.keyid, sig=signature),))
    )


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Replace the keys of every role on n devices, ok when all that were online followed and no theft worked."""
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="ef-drill-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        drill = Drill(Path(name), n, seed)
        for at, one in enumerate(DRILLS):
            rows[one] = drill.replace(one, is_stolen=at % 2 == 0 or one in ROLE_OF)
            print(f"{one}: {rows[one]}", file=sys.stderr, flush=True)
        last = [one.take(one.newest()) for one in drill.away]
        drill.house.db.dispose()
    is_ok = all(
        row["followed"] == row["stolen_refused"] == row["online"] and row["stolen_taken_before"]
        for row in rows.values()
    ) and not any(last)
    return {"ok": is_ok, "devices": n, "returned_at_the_end": len(last), "roles": rows}
