"""`edgectl server broker-trust`: a broker on a machine without a server goes by what any host of the fleet has revoked (ADR 0172)."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgefleet_server.access.model import Role
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.api_app import create_app
from edgefleet_server.composition.container import build_parts
from edgefleet_server.gateway.broker.model import BrokerEndpoint, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker_files.model import CA_NAME, CRL_NAME
from edgefleet_server.signing.authority import CRL_LIFE, DeviceAuthority
from tests.broker.client import eventually
from tests.broker.outside_brokers import free_port, write_mosquitto
from tests.broker.pki import Identity
from tests.cli.conftest import Edgectl, edgectl  # noqa: F401 - a fixture
from tests.hostile.revocation import is_let_in
from tests.house.tree import ROOT
from tests.server.dashboard.serving import served
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse

PAGE = "docs/operate/brokers.md"
NOTES = "broker-trust.json"
PATH = "/api/v1/trust/broker"
Document = dict[str, Any]


@pytest.fixture(name="house")
def _house(tmp_path: Path) -> Iterator[ApiHouse]:
    made = ApiHouse(tmp_path / "server", clock=SystemClock(), device_port=8443, broker="mqtts://127.0.0.1:8883")
    yield made
    made.close()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    made = tmp_path / "broker"
    made.mkdir()
    return made


class Liar:
    """A server that answers what a test puts here, and remembers the tags it was sent."""

    def __init__(self) -> None:
        self.body: bytes = b""
        self.tag = ""
        self.status = 200
        self.known: list[str] = []

    def says(self, document: Document, tag: str = '"t"') -> None:
        """Answer with this from now on."""
        self.body, self.tag, self.status = json.dumps(document).encode(), tag, 200

    def app(self) -> Starlette:
        """Return the server."""

        async def answer(request: Request) -> Response:
            self.known.append(request.headers.get("if-none-match", ""))
            return Response(self.body, self.status, {"etag": self.tag, "content-type": "application/json"})

        return Starlette(routes=[Route(PATH, answer)])


@dataclass(frozen=True)
class Authority:
    """A device CA and the documents that a server would give of it."""

    keys: DeviceAuthority
    clock: SystemClock

    def document(self, *serials: str, ago: timedelta = timedelta(0)) -> Document:
        """Return a document that was issued some time ago."""
        crl = self.keys.issue_crl(serials, self.clock.now() - ago).decode()
        return {"crl": crl, "trusted_cas": (self.keys.certificate_pem() + (self.keys.next_pem() or b"")).decode()}


@pytest.fixture(name="ca")
def _ca(tmp_path: Path) -> Authority:
    (tmp_path / "ca").mkdir()
    made = Authority(DeviceAuthority(tmp_path / "ca"), SystemClock())
    made.keys.create(made.clock.now())
    return made


@contextmanager
def lying() -> Iterator[tuple[Liar, tuple[str, ...]]]:
    """Serve a liar; yield it and the flags that lead to it."""
    liar = Liar()
    with served(liar.app()) as url:
        yield liar, ("--server", url, "--token", "t")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def enrolled(house: ApiHouse, folder: Path) -> tuple[str, Identity]:
    """Enrol a device; return its id and its certificate."""
    device = KeyedDevice()
    token = house.parts.fleet.enrolment.create_claims()[0].token
    made = house.parts.fleet.enrolment.enroll(token, device.csr(), FACTS)
    identity = Identity(made.device_id, folder / f"{made.device_id}.crt", folder / f"{made.device_id}.key")
    identity.cert_file.write_text(made.cert)
    identity.key_file.write_bytes(device.key_pem())
    return made.device_id, identity


@contextmanager
def plain_mosquitto(folder: Path, port: int) -> Iterator[tuple[BrokerEndpoint, int]]:
    """Run mosquitto itself, as a service of the machine would: only a signal has it read its files again. Yield its process id too."""
    binary = find_mosquitto()
    assert binary is not None
    sink = subprocess.DEVNULL
    with subprocess.Popen([binary, "-c", str(folder / "mosquitto.conf")], stdout=sink, stderr=sink) as process:
        try:
            yield BrokerEndpoint(BrokerKind.EXTERNAL, "127.0.0.1", port, "5", folder / CA_NAME), process.pid
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
def test_a_device_that_one_host_revoked_is_refused_after_one_run_that_asks_another(
    house: ApiHouse,
    folder: Path,
    tmp_path: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    port, other = free_port(), build_parts(house.settings, SystemClock())
    write_mosquitto(house.parts.signing, folder, port)
    gone, stays = enrolled(house, tmp_path), enrolled(house, tmp_path)
    with ExitStack() as stack:
        stack.callback(other.db.dispose)
        url = stack.enter_context(served(create_app(other)))
        broker, pid = stack.enter_context(plain_mosquitto(folder, port))
        flags = ("server", "broker-trust", "--out", folder, "--reload", f"kill -HUP {pid}", "-o", "json")
        at = ("--server", url, "--token", house.token(Role.VIEWER))
        eventually(lambda: is_let_in(broker, gone[1]), "the device is let in")
        assert house.client(Role.ADMIN).delete(f"/api/v1/devices/{gone[0]}").is_success
        done = edgectl(*flags, *at)
        assert done.code == 0, done.err
        assert (done.json["changed"], done.json["did"]) == (True, "reload")
        eventually(lambda: not is_let_in(broker, gone[1]), "the revoked device is refused")
        assert is_let_in(broker, stays[1])
        again = edgectl(*flags, *at)
        assert (again.code, again.json["changed"], again.json["did"]) == (0, False, "")
        before = files_of(folder)
        liar, lies = stack.enter_context(lying())
        for said in ({"crl": "", "trusted_cas": before[CA_NAME].decode()}, {"crl": before[CRL_NAME].decode()[:-40]}):
            liar.says(said)
            assert edgectl(*flags, *lies).error_code == "cli.broker_trust"
        assert files_of(folder) == before
        assert not is_let_in(broker, gone[1])
        assert is_let_in(broker, stays[1])


def test_the_api_gives_the_same_tag_at_every_host_and_another_once_something_was_revoked(house: ApiHouse) -> None:
    viewer, other = house.client(Role.VIEWER), build_parts(house.settings, SystemClock())
    first = viewer.get(PATH)
    assert viewer.get(PATH).json() == first.json(), "one list is kept"
    tag = first.headers["etag"]
    same = viewer.get(PATH, headers={"if-none-match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert other.signing.broker_trust.read(tag.removeprefix("W/").strip('"'))[1] is None
    house.parts.signing.outside.for_account("srv-hall")
    assert viewer.get(PATH, headers={"if-none-match": tag}).status_code == 304, (
        "a certificate that is good changes nothing"
    )
    house.parts.signing.outside.revoke(["srv-hall"])
    news = viewer.get(PATH, headers={"if-none-match": tag})
    assert (news.status_code, news.json()["revoked"]) == (200, 1)
    assert other.signing.broker_trust.read()[0] in news.headers["etag"]
    other.db.dispose()
    assert house.client().get(PATH).status_code == 401


def test_answers_that_must_not_be_put_before_a_broker_change_nothing(
    ca: Authority,
    folder: Path,
    tmp_path: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    (tmp_path / "thief").mkdir()
    thief = Authority(DeviceAuthority(tmp_path / "thief"), SystemClock())
    thief.keys.create(ca.clock.now())
    good = ca.document("a1", "b2", ago=timedelta(hours=1))
    mixed = {"crl": thief.document()["crl"], "trusted_cas": good["trusted_cas"]}
    added = {"crl": good["crl"], "trusted_cas": good["trusted_cas"] + thief.document()["trusted_cas"]}
    cut = {**good, "crl": good["crl"][: len(good["crl"]) // 2]}
    tail = {**good, "crl": good["crl"] + "-----BEGIN X509 CRL-----\nAAAA"}
    cases = {
        "cut": cut, "empty": {"crl": "", "trusted_cas": ""}, "no CA": {**good, "trusted_cas": ""}, "mixed": mixed, "added": added,
        "tail": tail, "another CA": thief.document(), "older": ca.document("a1", ago=timedelta(hours=2)),
        "ended": ca.document("a1", "b2", ago=CRL_LIFE), "not begun": ca.document("a1", "b2", "c3", ago=timedelta(hours=-1)),
    }  # fmt: skip
    with lying() as (liar, at):
        command = ("server", "broker-trust", "--out", folder, "--reload", f"touch {tmp_path / 'called'}", *at)
        liar.says(good)
        assert edgectl(*command).code == 0
        before = files_of(folder)
        (tmp_path / "called").unlink()
        for name, document in cases.items():
            liar.says(document, '"lie"')
            done = edgectl(*command)
            assert (done.code, done.error_code) == (1, "cli.broker_trust"), name
            done.told()
            assert files_of(folder) == before, name
        liar.body = b"<html>"
        assert edgectl(*command).error_code == "cli.bad_answer"
        assert files_of(folder) == before
        assert not (tmp_path / "called").exists()
        assert set(liar.known[1:]) == {'"t"'}, "a refused answer's tag is not taken"


def test_a_rotation_is_followed_with_the_other_command_and_a_missed_one_by_its_fingerprint(
    ca: Authority,
    folder: Path,
    tmp_path: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    with lying() as (liar, at):
        command = (
            "server",
            "broker-trust",
            "--out",
            folder,
            "--reload",
            "true",
            "--restart",
            "true",
            "-o",
            "json",
            *at,
        )

        def did(*flags: str) -> tuple[int, str]:
            done = edgectl(*command, *flags)
            return done.code, done.json["did"] if done.code == 0 else done.error_code

        liar.says(ca.document(ago=timedelta(hours=4)))
        assert did() == (0, "restart"), "the first CAs"
        ca.keys.make_next(ca.clock.now())
        liar.says(ca.document(ago=timedelta(hours=3)))
        assert did() == (0, "restart")
        assert (
            (folder / CA_NAME).read_bytes().count(b"BEGIN CERT")
            == (folder / CRL_NAME).read_bytes().count(b"BEGIN X509")
            == 2
        )
        liar.says(ca.document("a1", ago=timedelta(hours=2)))
        assert did() == (0, "reload")
        ca.keys.promote_next()
        liar.says(ca.document("a1", ago=timedelta(hours=1)))
        assert did() == (0, "restart")
        for step in (ca.keys.make_next, lambda _now: ca.keys.promote_next()):
            step(ca.clock.now())
        liar.says(ca.document("a1"))
        assert did() == (1, "cli.broker_trust"), "the broker knows none of these"
        assert did("--ca-sha256", "0" * 64) == (1, "cli.broker_trust")
        assert did("--ca-sha256", ca.keys.certificate_sha256().upper()) == (0, "restart")


def test_what_was_cut_off_or_failed_is_read_by_the_broker_in_the_next_run(
    ca: Authority,
    folder: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    with lying() as (liar, at):
        command = ("server", "broker-trust", "--out", folder, *at, "-o", "json", "--reload")
        liar.says(ca.document("a1"))
        failed = edgectl(*command, "false")
        assert (failed.code, failed.error_code) == (1, "cli.broker_reload")
        liar.status, liar.body = 304, b""
        assert edgectl(*command, "true").json["did"] == "reload"
        assert edgectl(*command, "true").json["did"] == ""
        (folder / CRL_NAME).write_bytes(b"broken")
        liar.says(ca.document("a1"))
        mended = edgectl(*command, "true").json
        assert (mended["changed"], mended["did"], liar.known[-1]) == (True, "reload", "")
        assert (folder / CRL_NAME).stat().st_mode & 0o777 == 0o644
        notes = json.loads((folder / NOTES).read_text())
        (folder / NOTES).write_text(json.dumps(notes | {"files": "", "due": "restart"}))  # as a cut leaves it
        assert edgectl(*command, "true").json["did"] == "reload", "without --restart the other command is called"


def test_it_says_when_the_list_is_about_to_end_while_no_server_can_be_reached(
    ca: Authority,
    folder: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    with lying() as (liar, at):
        liar.says(ca.document(ago=timedelta(days=20)))
        fresh = edgectl("server", "broker-trust", "--out", folder, *at)
        assert fresh.code == 0
        assert "ends in 9 days" in fresh.err
    away = ("server", "broker-trust", "--out", folder, "--server", f"http://127.0.0.1:{free_port()}", "--token", "t")
    once = edgectl(*away)
    assert (once.code, once.error_code) == (1, "cli.server_unreachable")
    assert "ends in 9 days" in once.err
    watched = edgectl(*away, "--watch", "--every", "1", "--timeout", "2")
    assert watched.code == 8
    assert watched.err.count("cannot reach the server") == 1, "said once"
    assert watched.err.count("ends in 9 days") == 1


def test_a_command_line_that_cannot_work_is_refused_before_anything_is_asked(
    folder: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    base = ("server", "broker-trust", "--server", "http://127.0.0.1:1", "--token", "t", "--out")
    for flags in ((folder / "none",), (folder, "--ca-sha256", "abc"), (folder, "--reload", "systemctl 'reload")):
        assert edgectl(*base, *flags).code == 2, flags


def test_the_command_of_the_page_fetches_and_has_the_broker_read(
    ca: Authority,
    folder: Path,
    edgectl: Edgectl,  # noqa: F811
) -> None:
    block = re.search(r"```sh\n(edgectl server broker-trust .*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    assert block is not None
    words = shlex.split(block[1].replace("\\\n", " "))
    here = {
        "/etc/mosquitto/edgefleet": folder,
        "systemctl reload mosquitto": "true",
        "systemctl restart mosquitto": "true",
    }
    assert set(here) <= set(words)
    with lying() as (liar, at):
        liar.says(ca.document())
        ran = edgectl(*(here.get(word, word) for word in words[1:]), *at, "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["did"] == "restart", "it trusts a CA that it did not trust before"
    assert (folder / CRL_NAME).read_bytes().startswith(b"-----BEGIN X509 CRL")
