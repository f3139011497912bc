"""`./dev soak ca-rotation`: a fleet gets another device CA, one is undone half way, and a thief with the old key is left with nothing.

Devices are the agent's own verifier, rules and files on a real server. Certificates are real, and what TLS would check of them is checked
here: the broker's side by the CAs that the broker is given, the device's by the CAs on its disk. A tenth of the devices is away and comes
back when all is over, without having heard of it. One adoption in ten is cut off by a power failure, and so is one renewal.
"""

import contextlib
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from edgefleet_agent.core.durable import write_record
from edgefleet_agent.identity.place_follower import due_s, load_announced
from edgefleet_agent.identity.store import CA_FILE, RECORD_FILE, load_identity
from edgefleet_agent.install.verifier_protocol import Task
from edgefleet_agent.verifier.documents import Documents
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Presence
from edgefleet_server.fleet.ca_rotation import service
from edgefleet_server.fleet.errors import ReadmissionPendingError
from edgefleet_server.signing.authority import CA_CERT_FILE, CA_KEY_FILE, DeviceAuthority, new_p256_key
from edgefleet_server.signing.keys.own_certificates import is_issued_by
from tests.hostile.theft.key_drills import MEMORY
from tests.hostile.theft.move_drills import CUT, Drill, Moved, PowerCutError
from tests.server.fleet.house import KeyedDevice

MINTED: Final = 20
"""So many certificates a thief makes."""
service.END_SPREAD_S = 0  # type: ignore[misc]  # time stands still here


def is_taken(cert: x509.Certificate, cas: bytes) -> bool:
    """Return whether one of these CAs issued a certificate."""
    for ca in x509.load_pem_x509_certificates(cas):
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            cert.verify_directly_issued_by(ca)
            return True
    return False


class Certified(Moved):
    """One device with a key and a certificate."""

    keyed: KeyedDevice
    cert: x509.Certificate

    def begin(self, keyed: KeyedDevice) -> None:
        """Take an enrolled identity."""
        self.keyed, self.id = keyed, keyed.id
        self._take(keyed.enrolment.cert)

    def _take(self, pem: str) -> None:
        self.cert = x509.load_pem_x509_certificate(pem.encode())
        begun, until = self.cert.not_valid_before_utc.timestamp(), self.cert.not_valid_after_utc.timestamp()
        known = load_identity(self.folder)
        record = msgspec.structs.replace(known, device=self.id, cert_from_s=int(begun), cert_until_s=int(until))
        write_record(self.folder / RECORD_FILE, record)

    def _cas(self) -> bytes:
        announced = load_announced(self.folder)
        more = "".join(announced.cas) if announced is not None else ""
        return (self.folder / CA_FILE).read_bytes() + more.encode()

    def live(self) -> bool:
        """Be on for a while: connect, follow, renew when it is due. Return whether the device ended up connected."""
        server = x509.load_pem_x509_certificate(self.house.signing.server_cert_file.read_bytes())
        for _ in range(12):  # power may fail several times in a row
            if not is_taken(server, self._cas()):
                self._hear()
                continue
            if is_taken(self.cert, self.house.signing.cas.bundle()):
                self._connect()
            if not self._renew() and is_taken(self.cert, self.house.signing.cas.bundle()):
                return True
        return False

    def _connect(self) -> None:
        serial = f"{self.cert.serial_number:x}"
        here = Presence(on=True, conn_id=serial, boot_id="b", ts=1, cert=serial)
        self.house.fleet.receiver.take_presence(DeviceId(self.id), here)
        self._take_hold()
        self.rules = self.rules.rested().hear(load_announced(self.folder))
        self.rules = self.rules.connected(self.rules.told)
        try:
            self._adopt()
        except PowerCutError:
            self.cuts += 1
            self.start()
        self._report()

    def _hear(self) -> None:
        """As the renewal child does of a server that it cannot verify."""
        Documents(
            Task("hold", str(self.state), self.id),
            lambda name, _most: self.house.signing.metadata_file(name),
            self.house.clock,
        ).hear()
        self.start()

    def _renew(self) -> bool:
        announced, now = load_announced(self.folder), self.house.clock.now()
        if now.timestamp() < due_s(load_identity(self.folder), announced):
            return False
        fleet = self.house.fleet
        caller = fleet.authenticator.authenticate(self.keyed.token(now), renews=True)
        fresh = KeyedDevice()
        fresh.enrolment = self.keyed.enrolment
        place = announced.number if announced is not None else 0
        try:
            found = fleet.enrolment.renew(caller, fresh.csr(), place=place).cert
        except ReadmissionPendingError:  # more are back than the rule lets in a day: a person does
            fleet.readmissions.approve([self.id], "anna")
            caller = fleet.authenticator.authenticate(self.keyed.token(now), renews=True)
            found = fleet.enrolment.renew(caller, fresh.csr(), place=place).cert
        if not is_taken(x509.load_pem_x509_certificate(found.encode()), self._cas()):
            return True  # its agent refuses it, and asks again later
        if self.chance.random() < CUT:  # the answer came, and the power went before it was on the disk
            self.cuts += 1
            return True
        self.keyed = fresh
        self._take(found)
        return True


class CaDrill(Drill):
    """A fleet whose CA is rotated."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        super().__init__(folder, 0, seed)
        self.fleet: list[Certified] = []
        for at in range(count):
            one = Certified(self.house, folder / "devices" / str(at), self.place, self.chance)
            self.house.fleet.revocation.revoke(one.id)
            one.begin(self.house.device())
            self.fleet.append(one)
        self.go_by(days=3)
        self.turn(self.fleet)

    def go_by(self, **delta: float) -> None:
        """Let time go by, in which the server signs what is due."""
        self.house.clock.turn(**delta)
        self.house.signing.resign_due()
        self.house.fleet.hold.resign_due(self.house.clock.now())

    def turn(self, there: list[Certified]) -> int:
        """Let devices be on; return how many were not connected in the end."""
        self.go_by(seconds=2)
        return sum(not one.live() for one in there)

    def settle(self) -> None:
        """Let the server do what is left, with a power failure of its own between decision and deed."""
        while self.house.fleet.ca_rotations.step():
            self.house.signing.renew_own("main")

    def mint(self, stolen: DeviceAuthority) -> list[x509.Certificate]:
        """Let a thief make certificates of devices, and one of the server."""
        now = self.house.clock.now()
        names = [str(one.id) for one in self.fleet[: MINTED - 1]] + ["srv-main"]
        made = [stolen.issue_client(new_p256_key().public_key(), name, now, timedelta(days=90)) for name in names]
        return [x509.load_pem_x509_certificate(one.pem) for one in made]

    def undone(self) -> dict[str, Any]:
        """A rotation that half of the devices follow, and then all go back."""
        rotations = self.house.fleet.ca_rotations
        rotations.start(spread_s=0, reason="drill", by="drill")
        self.settle()
        self.turn(self.fleet[::2])
        half = rotations.rotations()[0].followers.followed
        self.go_by(minutes=30)
        rotations.undo()
        self.settle()
        lost = self.turn(self.fleet)
        rotations.finish(leave_behind=0, reason="")
        self.settle()
        lost += self.turn(self.fleet)
        found = rotations.rotations()[0]
        return {"half": half, "state": str(found.state), "followed": found.followers.followed, "lost": lost}

    def stolen(self, folder: Path) -> dict[str, Any]:
        """The key is stolen; all that are on follow, those that were away come back when it is over, the thief does not."""
        folder.mkdir()
        for name in (CA_KEY_FILE, CA_CERT_FILE):
            (folder / name).write_bytes((self.house.folder / "keys" / name).read_bytes())
        thief, rotations = DeviceAuthority(folder), self.house.fleet.ca_rotations
        self.go_by(minutes=30)
        away = [one for one in self.fleet if self.chance.random() < 0.1] or self.fleet[:1]
        there = [one for one in self.fleet if one not in away]
        for one in away:
            off = Presence(on=False, conn_id=f"{one.cert.serial_number:x}", boot_id="b", ts=2)
            self.house.fleet.receiver.take_presence(DeviceId(one.id), off)
        rotations.start(spread_s=0, reason="stolen", by="drill")
        self.settle()
        control = sum(is_taken(one, self.house.signing.cas.bundle()) for one in self.mint(thief))
        lost = self.turn(there)
        found = rotations.rotations()[0].followers
        rotations.finish(leave_behind=0, reason="")
        self.settle()
        lost += self.turn(there)
        accepted = sum(is_taken(one, self.house.signing.cas.bundle()) for one in self.mint(thief))
        accepted += sum(is_issued_by(self.house.signing.server_cert_file, ca) for ca in [thief.certificate_pem()])
        self.go_by(days=100)  # past the end of their certificates
        for _ in range(12):  # up to so many each day
            back = [one for one in away if not one.live()]
            if not back:
                break
            self.go_by(days=1)
        everyone = self.turn(self.fleet)
        last = rotations.rotations()[0].followers
        return {
            "online": found.online,
            "followed": found.online_followed,
            "away": len(away),
            "came_back": len(away) - len(back),
            "lost": lost + everyone,
            "all_followed": last.followed,
            "control_accepted": control,
            "stolen_accepted": accepted,
        }


def main(n: int, seed: int) -> Mapping[str, Any]:
    """Rotate the CA of n devices twice; ok when nobody is lost and nothing of the thief is taken."""
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="ef-ca-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        drill = CaDrill(Path(name), n, seed)
        for label, act in (("undone", drill.undone), ("stolen", lambda: drill.stolen(Path(name) / "thief"))):
            begun = time.monotonic()
            rows[label] = act() | {"seconds": round(time.monotonic() - begun, 1)}
            print(f"{label}: {rows[label]}", file=sys.stderr, flush=True)
        cuts = sum(one.cuts for one in drill.fleet)
        drill.house.db.dispose()
    undone, stolen = rows["undone"], rows["stolen"]
    is_ok = undone["followed"] == stolen["all_followed"] == n and undone["lost"] == stolen["lost"] == 0
    is_ok = is_ok and stolen["followed"] == stolen["online"] and stolen["came_back"] == stolen["away"]
    is_ok = is_ok and stolen["stolen_accepted"] == 0 and stolen["control_accepted"] > 0
    return {"ok": is_ok, "devices": n, "power_cuts": cuts} | rows
