"""Identities of simulated devices: enrolled once over the device listener, kept in a private folder, used again by the next run.

`devices.jsonl` has a line a device, in the order of their numbers; `NUMBER.pem` its certificate and key. The first line of `fleet.json`
says of which server, hardware profile and label they are. Keys are P-256, made here, and never leave the folder.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edgefleet_agent.core.durable import write_file
from edgefleet_agent.enrolment.enroll import parse_claim_token, pinned_ca
from edgefleet_agent.enrolment.server_api import Answer, ask, key_pem, make_csr, problem_of, verifying_context
from edgefleet_agent.errors import EnrollRefusedError, PinMismatchError
from edgefleet_protocol.claim import ClaimToken
from edgefleet_sim.live_fleet.device_reports import FACTS

AT_ONCE: Final = 4
FLEET_FILE: Final = "fleet.json"
DEVICES_FILE: Final = "devices.jsonl"
CA_FILE: Final = "ca.pem"


class Fleet(msgspec.Struct, frozen=True):
    """Where the devices of a folder belong."""

    host: str
    port: int
    mqtt: str
    tenant: str
    server_id: str
    profile: str


@dataclass(frozen=True)
class IdentityFolder:
    """A folder of identities."""

    folder: Path

    def fleet(self) -> Fleet | None:
        """Return where its devices belong; None while it has none."""
        try:
            return msgspec.json.decode((self.folder / FLEET_FILE).read_bytes(), type=Fleet)
        except FileNotFoundError:
            return None

    def devices(self) -> list[str]:
        """Return the ids of its devices by their numbers."""
        try:
            lines = (self.folder / DEVICES_FILE).read_text("ascii").splitlines()
        except FileNotFoundError:
            return []
        return [str(json.loads(line)["id"]) for line in lines]

    def certificate_of(self, number: int) -> Path:
        """Return the file with certificate and key of a device."""
        return self.folder / f"{number:06}.pem"

    @property
    def ca_file(self) -> Path:
        """The CA that signs the broker's certificate."""
        return self.folder / CA_FILE

    def add(self, name: str, certificate: str, key: ec.EllipticCurvePrivateKey, number: int) -> None:
        """Keep one identity more; `number` is how many there were."""
        write_file(self.certificate_of(number), certificate.encode() + key_pem(key, b""), mode=0o600)
        with (self.folder / DEVICES_FILE).open("a", encoding="ascii") as file:
            file.write(json.dumps({"n": number, "id": name}) + "\n")

    def begin(self, fleet: Fleet, ca_pem: str) -> None:
        """Note where the devices belong."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self.ca_file, ca_pem.encode(), mode=0o644)
        write_file(self.folder / FLEET_FILE, msgspec.json.encode(fleet), mode=0o600)


def enrol(folder: IdentityFolder, token_text: str, count: int, per_s: float, done: Callable[[int], None]) -> None:
    """Enrol devices until the folder has `count`, at most `per_s` a second; `done` hears how many there are.

    Raises what real enrolments do: ClaimTokenError, ServerUnreachableError, PinMismatchError, EnrollRefusedError.
    """
    had = len(folder.devices())
    token = parse_claim_token(token_text)
    ca_pem = pinned_ca(token)
    began_s = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = pool.map(lambda at: _one(token, token_text, ca_pem, began_s + at / per_s), range(count - had))
        for number, (answer, key) in enumerate(asked, start=had):
            if number == had:
                folder.begin(_fleet(answer), ca_pem)
            folder.add(answer.device_id, answer.cert, key, number)
            done(number + 1)


def _one(token: ClaimToken, text: str, ca_pem: str, at_s: float) -> tuple[Answer, ec.EllipticCurvePrivateKey]:
    wait_s = at_s - time.monotonic()
    if wait_s > 0:
        time.sleep(wait_s)
    key = ec.generate_private_key(ec.SECP256R1())
    body = {
        "token": text,
        "csr": make_csr(key),
        "facts": FACTS | {"names_requests": True},
        "nonce": secrets.token_hex(16),
    }
    status, data = ask(token.url, verifying_context(ca_pem), "POST", "/device/v1/enroll", json.dumps(body).encode())
    if status != 200:
        detail, next_step = problem_of(status, data)
        raise EnrollRefusedError(f"the server refused a simulated device: {detail}", next_step=next_step)
    answer = msgspec.json.decode(data, type=Answer)
    if answer.nonce != body["nonce"]:
        raise PinMismatchError("the server's answer is not to this request: its nonce differs")
    return answer, key


def _fleet(answer: Answer) -> Fleet:
    if answer.broker is None:
        raise EnrollRefusedError(
            "the server has no running broker, so no device can connect", next_step="start the server with its gateway"
        )
    broker = answer.broker
    return Fleet(broker.host, broker.port, broker.mqtt, answer.tenant, answer.server_id, answer.profile)


def numbered(names: list[str], first: int, count: int) -> Iterator[tuple[int, str]]:
    """Yield number and id of some devices."""
    yield from ((number, names[number]) for number in range(first, min(first + count, len(names))))
