"""The signing process: a server without a key does all its work by asking, and what it must not have is refused."""

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # documented there, but not in __all__

from edgefleet_protocol.desired import DESIRED_TYPE, decode_desired
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.messages import State
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.clock import SystemClock
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.process.signer_child import SignerChild, wait_for_signer
from edgefleet_server.settings import load_settings
from edgefleet_server.signing.authority import new_p256_key, public_der
from edgefleet_server.signing.errors import (
    KeyRevokedError,
    KeysUnreadableError,
    SignerUnavailableError,
    SigningProcessDownError,
    StatementRefusedError,
)
from edgefleet_server.signing.keys.inventory import (
    Inventory,
    KeyAlgorithm,
    KeyRecord,
    KeySource,
    KeyState,
    dump_inventory,
)
from edgefleet_server.signing.keys.key_files import load_private_key
from edgefleet_server.signing.keys.rotation import KeyOrder
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.signer import messages as m
from edgefleet_server.signing.signer.handovers import Handovers
from edgefleet_server.signing.signer.question_handler import QuestionHandler
from edgefleet_server.signing.signer.remote_keys import RemoteAuthority, RemoteKeys
from edgefleet_server.signing.signer.signed_versions import SignedVersions
from edgefleet_server.signing.signer.signer_connection import SignerConnection
from edgefleet_server.signing.signer.signer_process import SigningServer
from edgefleet_server.signing.signer.unix_sockets import connect, listen, mark_of, read_frame, remove_own
from tests.hostile.device.forge import PROFILE
from tests.server.fleet.house import House, TurnedClock
from tests.server.fleet.test_offering import DIGITS, ref
from tests.server.signing.test_key_rotation import Fleet
from tests.server.signing.test_repository import client
from tests.server.signing.test_statements import document
from tests.support.teams import member, pem, team_answer

TARGET = "digits/1.0.0/p.bundle"
MODULE = "edgefleet_server.signing.signer.signer_process"


def move_keys(web: Path, apart: Path) -> None:
    """Take all keys that sign from a server, as docs/operate/signing-process.md says."""
    apart.mkdir(mode=0o700)
    for one in [*web.glob("*.pem"), web / "keys.json", web / "root.passphrase"]:
        shutil.move(one, apart)
    shutil.copy(web / "device-ca.crt", apart)


@dataclass
class Apart:
    """A signing process in a thread, with the clock of a test, and the server that asks it."""

    handler: QuestionHandler
    connection: SignerConnection
    keys: Path

    def give_to(self, house: House) -> None:
        """Let a server ask from now on; it forgets the keys that it has read."""
        keepers = RemoteKeys(self.connection), RemoteAuthority(self.connection, house.folder / "keys")
        SigningService.__init__(house.signing, house.db, house.folder / "keys", house.clock, keepers=keepers)
        house.signing.teams.bundles = house.registry.unsigned


@contextmanager
def apart_of(house: House, folder: Path) -> Iterator[Apart]:
    """Take the keys of a server to a signing process."""
    keys = folder / "apart"
    move_keys(house.folder / "keys", keys)
    path = folder / ("long" * 30) / "sign.sock"  # longer than the kernel takes
    path.parent.mkdir(parents=True)
    handler = QuestionHandler(keys, house.clock)
    server = SigningServer(handler, listen(path), {os.geteuid()})
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    made = Apart(handler, SignerConnection(path, patience_s=0.0), keys)
    made.give_to(house)
    try:
        yield made
    finally:
        made.connection.close()
        server.stop()
        thread.join(5)


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.house.db.dispose()


@pytest.fixture(name="house")
def _house(tmp_path: Path) -> Iterator[House]:
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(SystemClock().now()))
    yield made
    made.db.dispose()


@pytest.fixture(name="apart")
def _apart(house: House, tmp_path: Path) -> Iterator[Apart]:
    with apart_of(house, tmp_path) as made:
        yield made


def test_a_device_follows_a_server_that_has_no_key(fleet: Fleet, tmp_path: Path) -> None:
    with apart_of(fleet.house, tmp_path) as apart:
        web = fleet.house.folder / "keys"
        assert not list(web.glob("*.pem"))
        signing = fleet.house.signing
        signing.start()
        fleet.house.release("other@1.0.0", bundles={PROFILE: b"x"})
        before = signing.director_keyid()
        signing.keys.rotate("director", KeyOrder("ecdsa-sha2-nistp256"))
        signing.keys.rotate("timestamp", KeyOrder())  # a new root too, while its key lies with the others
        fleet.serve(signing)
        assert fleet.offer(signing) == "", "the device takes what the signing process signed"
        assert fleet.hold(signing) == ""
        _, finish = signing.keys.revoke("director", KeyOrder())
        finish()
        fleet.house.clock.turn(seconds=1)
        assert fleet.offer(signing) == ""
        assert signing.trust().is_root_here
        with pytest.raises(KeyRevokedError):
            apart.connection.ask(m.AskPublic(signing.keys._ring.inventory().of_role("director")[1].keyid), object)
        assert before in {one.keyid for one in signing.keys._ring.inventory().of_role("director")}
        assert not list(web.glob("*.pem")), "no key came back"
        assert apart.handler.answer(m.AskStatus()).code == ""


def test_many_documents_are_one_question_and_certificates_are_its_own(
    house: House, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = house.clock.now()
    until = now + dt.timedelta(days=7)
    payloads = [document(device=f"d-{number}", issued=now, expires=until) for number in range(2_500)]
    asked: list[m.AnyQuestion] = []
    answer = apart.handler.answer

    def heard(question: m.AnyQuestion) -> m.Answer:
        asked.append(question)
        return answer(question)

    monkeypatch.setattr(apart.handler, "answer", heard)
    signed = house.signing.sign_all_desired(payloads)
    assert [len(one.payloads) for one in asked if isinstance(one, m.SignDocuments)] == [2_000, 500]
    key = house.signing.director_key()
    assert [verify_envelope(one, DESIRED_TYPE, [key]) for one in (signed[0], signed[-1])] == [payloads[0], payloads[-1]]
    made = house.signing.brief_identity("d-1")
    usage = x509.load_pem_x509_certificate(made.cert).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert house.signing.refused_certificates("main")[0].crl.startswith(b"-----BEGIN X509 CRL")
    house.signing.issue_server_certificate(["edge.example"])
    house.signing.service_identity("main")


def test_documents_that_are_due_again_are_one_question(
    house: House, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted(house.device().id for _ in range(5))
    before = house.fleet.desired.set_models([ModelChange(one, DIGITS, ref()) for one in ids])
    asked: list[m.AnyQuestion] = []
    answer = apart.handler.answer

    def heard(question: m.AnyQuestion) -> m.Answer:
        asked.append(question)
        return answer(question)

    monkeypatch.setattr(apart.handler, "answer", heard)
    house.clock.turn(days=4)
    assert house.fleet.desired.resign_due(house.clock.now()) == 5
    assert [len(one.payloads) for one in asked if isinstance(one, m.SignDocuments)] == [5]
    assert house.fleet.desired.resign_due(house.clock.now()) == 0
    for one, old in zip(ids, before, strict=True):
        new = house.fleet.documents.of_device(one)
        assert new is not None
        was, now = (decode_desired(parse_envelope(raw).payload) for raw in (old.envelope, new.envelope))
        assert (now.gen, now.models, now.issued) == (was.gen + 1, was.models, was.issued + dt.timedelta(days=4))


def test_a_thief_of_the_web_process_gets_nothing_that_outlives_it(house: House, apart: Apart) -> None:
    """It asks the socket itself, with all that the server knows."""
    ids = {role: house.signing.role(role).keys[0] for role in ("director", "targets", "timestamp", "root")}
    spki = new_p256_key().public_key()
    der, now = public_der(spki), house.clock.now()
    with house.db.read() as session:
        targets = house.signing._repository.load(session, "targets")
    targets.delegations.roles["director"].keyids = ["f" * 64]  # type: ignore[union-attr,index]
    content = json.dumps(targets.to_dict()).encode()
    attempts: list[m.AnyQuestion] = [
        m.SignDocuments([ids["director"]], 1, DESIRED_TYPE, [b"blind bytes"]),
        m.SignDocuments([ids["director"]], 1, DESIRED_TYPE, [document(gen=2**63 - 1, expires=now)]),
        m.SignDocuments([ids["targets"]], 1, DESIRED_TYPE, [document(expires=now)]),
        m.SignDocuments([ids["director"]], 1, DESIRED_TYPE, [document(expires=now)] * 2_001),
        m.SignMetadata("targets", ids["targets"], content),
        m.SignMetadata("timestamp", ids["targets"], content),
        m.SignMetadata("root", ids["targets"], content),
        m.SignMetadata("root", ids["root"], b"{}"),
        m.Prepare("root", "ed25519", None),
        m.Prepare("director", "rsa", None),
        m.Prepare("../director", "ed25519", None),
        m.Prepare("server", "ed25519", None),
        m.TakeIn(b"{}"),
        m.IssueCertificate(der, "d-1", 91 * 86_400),
        m.IssueCertificate(der, "srv-x", 398 * 86_400),
        m.IssueCertificate(b"no key", "d-1", 60),
        m.IssueCertificate(public_der(ec.generate_private_key(ec.SECP384R1()).public_key()), "d-1", 60),
        m.IssueCertificate(der, "x", 60, []),
        *(m.IssueCertificate(der, name, 60) for name in ("+", "#", "d-1/up", "d", "srv-", "srv-a/b", "D-1", "d-1\n")),
        m.Destroy("director", []),
        m.Destroy("timestamp", []),
        m.Destroy("../director", []),
        m.TakeIn(_device_ca_as_director(apart.keys, now)),
        m.SignDocuments([ids["director"]] * 100_000, 1, DESIRED_TYPE, [document(expires=now)] * 2_000),
        m.IssueCrl(["1"] * 200_001),
        m.IssueCrl(["f" * 1_000_000]),
    ]
    files = sorted(one for one in house.folder.rglob("*"))
    signed = apart.connection.ask(m.AskStatus(), m.Status).signed
    codes = [apart.handler.answer(one).code for one in attempts]
    assert all(code.startswith("signing.") for code in codes), codes
    assert apart.connection.ask(m.AskStatus(), m.Status).signed == signed, "nothing was signed"
    assert sorted(one for one in house.folder.rglob("*")) == files, "no name of a role led out of the folder"
    assert set(apart.connection.ask(m.AskStatus(), m.Status).refused) <= {*ids, "", "device-ca", "other"}
    assert (apart.keys / "device-ca.pem").exists()
    assert house.signing.add_target(TARGET, 1, house.signing.root_sha256(), {}), "and it goes on signing"


def _device_ca_as_director(keys: Path, now: dt.datetime) -> bytes:
    """Return the device CA's key as one that was given for the director: to revoke it would delete its file."""
    private = load_private_key(keys / "device-ca.pem", None)
    public = SSlibKey.from_crypto(private.public_key())
    scheme, text = KeyAlgorithm(public.scheme), str(public.keyval["public"])
    prepared, given = KeyState.PREPARED, KeySource.GIVEN
    record = KeyRecord(public.keyid, "director", "file2:device-ca.pem", scheme, text, prepared, now, given)
    return dump_inventory(Inventory((record,)))


def test_a_team_takes_a_model_from_the_signing_process(house: House, apart: Apart, tmp_path: Path) -> None:
    house.release("digits@1.0.0", bundles={PROFILE: b"one"})
    team = [member(), member()]
    asked = house.signing.teams.set_team("digits", [pem(one) for one in team], 2, "close")
    keys = {one.name for one in apart.keys.glob("m.digits.*")}
    assert keys
    assert house.signing.teams.take(asked.id, team_answer(asked, *team)).state == "done"
    house.signing.teams.finish()
    assert not keys & {one.name for one in apart.keys.glob("m.digits.*")}, "destroyed where it lies"
    with house.db.read() as session:
        content = house.signing._repository.load(session, "m.digits").to_dict()
    for handler in (apart.handler, QuestionHandler(apart.keys, house.clock)):  # also after it was started again
        _ask_for_the_model(handler, house, content, given=apart.keys)
    ref = house.release("digits@1.1.0", bundles={PROFILE: b"two"})
    house.jobs.jobs.pop(ref, None)
    house.registry.refresh_state(ref)
    waiting = house.signing.teams.ask_release("digits", "1.1.0")
    assert waiting is not None
    house.signing.teams.take(waiting.id, team_answer(waiting, *team))
    house.clock.turn(days=50)
    house.signing.resign_due()
    device = client(house, tmp_path / "device")
    device._trusted_set.reference_time = house.clock.now()
    device.refresh()
    assert device.get_targetinfo(f"digits/1.1.0/{PROFILE}.bundle") is not None


def _ask_for_the_model(handler: QuestionHandler, house: House, content: dict[str, Any], given: Path) -> None:
    """Ask as a thief of the web process for all that would sign a model of a team, and for what would let him. All is refused."""
    files = sorted(given.iterdir())
    with house.db.read() as session:
        releases = house.signing._repository.load(session, "releases").to_dict()
    hands_on = {"name": "m.digits", "keyids": [], "threshold": 1, "paths": ["digits/*/*"], "terminating": True}
    releases["delegations"]["roles"].append(hands_on)
    key = house.signing.role("releases").keys[0]
    for asked in (
        m.SignMetadata("m.digits", key, (encode_canonical(content) or "").encode()),
        m.Prepare("m.digits", "ed25519", None),
        m.Prepare("m.digits", "ed25519", []),
        m.SignMetadata("releases", key, (encode_canonical(releases) or "").encode()),
    ):
        answer = handler.answer(asked)
        assert answer.code == StatementRefusedError.code, asked
        assert "signed by its team" in answer.message, asked
    assert sorted(given.iterdir()) == files


def test_a_team_keeps_its_model_when_the_file_that_says_so_is_damaged(tmp_path: Path) -> None:
    Handovers(tmp_path).note("m.digits")
    assert Handovers(tmp_path).roles() == {"m.digits"}
    seen = Handovers(tmp_path)
    assert seen.roles()
    (tmp_path / "handed-over.json").unlink()
    assert seen.roles() == {"m.digits"}, "it was seen once"
    seen.note("m.faces")
    assert Handovers(tmp_path).roles() == {"m.digits", "m.faces"}
    for damage in (b"", b"{}", b"[]", b'{"roles": "m.digits"}', b'{"roles": [1]}', b"\xff"):
        (tmp_path / "handed-over.json").write_bytes(damage)
        for one in (Handovers(tmp_path), seen):
            with pytest.raises(KeysUnreadableError, match="cannot be read, so it is not known"):
                one.roles()
            with pytest.raises(KeysUnreadableError):
                one.note("m.gears")


def test_a_key_service_is_asked_where_the_signing_process_was_allowed_to(house: House, tmp_path: Path) -> None:
    """A thief's key in an account of his own would sign for the role after the theft."""
    keys = house.folder / "keys"
    public = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP256R1()).public_key())
    scheme, text = KeyAlgorithm(public.scheme), str(public.keyval["public"])
    for places, code in (
        ([], StatementRefusedError.code),
        (["awskms:alias/a"], StatementRefusedError.code),
        (None, SignerUnavailableError.code),  # its library is not here: it was asked
        (["awskms:alias/b"], SignerUnavailableError.code),
    ):
        handler = QuestionHandler(keys, house.clock, places=places)
        now, prepared, given = house.clock.now(), KeyState.PREPARED, KeySource.GIVEN
        record = KeyRecord(public.keyid, "director", "awskms:alias/b", scheme, text, prepared, now, given)
        answer = handler.answer(m.TakeIn(dump_inventory(Inventory((record,)))))
        assert answer.code == code, places
        assert places is None or code != StatementRefusedError.code or "--allow-uri" in answer.message


def test_an_older_version_is_not_signed_again(house: House, apart: Apart) -> None:
    house.signing.start()
    house.clock.turn(seconds=-30)
    # the database forgets what was signed, the signing process does not
    with house.db.session() as session:
        session.connection().exec_driver_sql(
            "UPDATE signing_tuf_metadata SET version = version - 100 WHERE name = 'timestamp'"
        )
    with pytest.raises(StatementRefusedError, match="older than"):
        house.signing.start()


def test_two_signing_processes_on_one_folder_keep_what_the_other_signed(tmp_path: Path) -> None:
    """As two replicas on one machine have."""
    first, second = SignedVersions(tmp_path), SignedVersions(tmp_path)
    first.note("targets", 7)
    assert second.last("targets") == 7
    second.note("timestamp", 9)
    first.note("snapshot", 8)
    second.note("targets", 5)
    for one in (first, second, SignedVersions(tmp_path)):
        assert [one.last(role) for role in ("targets", "timestamp", "snapshot", "x")] == [7, 9, 8, 0]


def test_what_cannot_be_noted_is_not_signed(house: House, apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", full)
        for _ in range(2):  # not the second time either
            with pytest.raises(KeysUnreadableError, match="No space left"):
                house.signing.add_target(TARGET, 1, house.signing.root_sha256(), {})
    assert house.signing.add_target(TARGET, 1, house.signing.root_sha256(), {})


def test_a_device_that_lies_about_its_number_holds_up_nobody(house: House, apart: Apart) -> None:
    """The signing process would refuse a number above the lie, and with it all documents of the transaction."""
    liar, other = sorted(house.device().id for _ in range(2))
    house.fleet.receiver.take_state(liar, State(device=liar, gen=2**62, boot_id="b", seq=1, ts=0, models=[]))
    signed = house.fleet.desired.set_models([ModelChange(one, DIGITS, ref()) for one in (liar, other)])
    assert len(signed) == 2
    assert all(one.gen < 9 for one in signed)
    assert apart.connection.ask(m.AskStatus(), m.Status).refused == {}


def test_a_folder_of_before_takes_over_what_its_server_had_signed(house: House, apart: Apart) -> None:
    house.signing.add_target(TARGET, 1, house.signing.root_sha256(), {})
    kept = json.loads((apart.keys / "signed.json").read_bytes())
    assert {"targets", "director", "releases", "m.digits", "snapshot", "timestamp"} <= set(kept)


def test_connections_that_are_not_used_are_few(apart: Apart) -> None:
    """Each takes one of the places that replicas share."""
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: apart.connection.ask(m.AskInventory(), bytes), range(100)))
    assert len(apart.connection._idle) <= 4


def test_a_process_that_ends_leaves_the_socket_of_the_one_after_it(tmp_path: Path) -> None:
    first = listen(tmp_path / "s")
    mark = mark_of(tmp_path / "s")
    second = listen(tmp_path / "s")
    remove_own(tmp_path / "s", mark)
    assert (tmp_path / "s").exists()
    remove_own(tmp_path / "s", mark_of(tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    for one in (first, second):
        one.close()


def test_frames_that_are_too_long_or_none_end_the_connection(apart: Apart) -> None:
    for data in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", b"\x00\x00\x00\x01\xc0"):
        with connect(apart.connection.path, 5.0) as connection:
            connection.sendall(data)
            assert read_frame(connection) is None
    assert apart.connection.ask(m.AskInventory(), bytes)


def test_without_a_signing_process_nothing_is_signed_and_it_is_said(house: House, tmp_path: Path) -> None:
    with apart_of(house, tmp_path) as apart:
        assert house.signing.is_initialised()
    with pytest.raises(SigningProcessDownError, match="does not answer"):
        house.signing.add_target(TARGET, 1, house.signing.root_sha256(), {})
    assert house.signing.target(TARGET) is None, "the transaction left nothing behind"
    assert apart.connection.path.exists(), "as after a kill; the next one takes its place"


def test_the_child_is_started_again_and_ends_with_its_server(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.settings.run_dir.mkdir()
    monkeypatch.setenv("EDGEFLEET_SERVER_KEYS_PASSPHRASE", "hush-hush")
    monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_KEY", "hush-hush")
    settings = load_settings(house.folder, log_level="ERROR")
    child = SignerChild(settings)
    child.start()
    wait_for_signer(settings.own_signer_socket)
    connection = SignerConnection(settings.own_signer_socket)
    first = connection.ask(m.AskStatus(), m.Status).pid
    limits = Path(f"/proc/{first}/limits").read_text(encoding="utf-8")
    assert re.search(r"Max core file size +0 +0", limits), "no core file holds the keys"
    if os.geteuid() == 0:  # its /proc is root's alone
        for name in ("environ", "cmdline"):
            assert b"hush-hush" not in Path(f"/proc/{first}/{name}").read_bytes(), name
    os.kill(first, 9)
    second = connection.ask(m.AskStatus(), m.Status).pid  # asked again until the next one answers
    assert second != first
    connection.close()
    child.stop()
    assert not settings.own_signer_socket.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: those of pytest are closed again by any other run of it that begins."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def as_user(uid: int, imports: str, work: str) -> list[str]:
    """Return a Python that imports as root, whose folders others may not read, and works as a user of its own."""
    become = f"import ctypes, os\nos.setgroups([])\nos.setgid({uid})\nos.setuid({uid})\n"
    become += (
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"  # as after an exec: to change the user closes the memory already
    )
    return [sys.executable, "-P", "-c", f"{imports}\n{become}{work}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of other users")
def test_a_signing_process_of_another_user_answers_the_named_user_only(house: House, open_folder: Path) -> None:
    """The web process cannot read the keys, nor can a third user ask for a signature."""
    signer, web, third = 64_001, 64_002, 64_003
    keys, run = open_folder / "apart", open_folder / "run"
    move_keys(house.folder / "keys", keys)
    run.mkdir()
    for one in (keys, *keys.iterdir(), run):
        os.chown(one, signer, signer)
    run.chmod(0o755)
    flags = ["--keys", str(keys), "--socket", str(run / "s"), "--user", str(web), "--log-level", "ERROR"]
    loads = (
        f"import gettext, locale, shutil, sys\nfrom {MODULE} import main\n"
        "from edgefleet_server.signing.keys import service_libraries\nservice_libraries.leave_out()\n"
        "import edgefleet_server.signing.signer.question_handler\n"  # all that `main` imports once it listens
    )
    process = subprocess.Popen(as_user(signer, loads, f"sys.exit(main({flags}))"))
    ask = (
        f"try: Path({str(keys)!r}, 'director.pem').read_bytes(); sys.exit(9)\n"
        "except PermissionError: pass\n"
        f"found = SignerConnection(Path({str(run / 's')!r}), float(sys.argv[1])).ask(AskInventory(), bytes)\n"
        "sys.exit(0 if found else 8)\n"
    )
    imports = (
        "import sys\nfrom pathlib import Path\n"
        "from edgefleet_server.signing.signer.messages import AskInventory\n"
        "from edgefleet_server.signing.signer.signer_connection import SignerConnection\n"
    )
    try:
        for uid, patience, code in ((web, "60", 0), (third, "0.3", 1)):
            asked = subprocess.run([*as_user(uid, imports, ask), patience], check=False, capture_output=True, text=True)
            assert asked.returncode == code, asked.stderr
        assert "does not answer" in asked.stderr
        look = "import sys\n" + "".join(
            f"open(f'/proc/{{sys.argv[1]}}/{name}', 'rb').read(9)\n" for name in ("maps", "environ")
        )
        other = subprocess.Popen(
            as_user(signer, "import sys", "print(flush=True)\nsys.stdin.read()"), stdin=-1, stdout=-1
        )
        assert other.stdout is not None
        other.stdout.readline()
        for pid, code in ((other.pid, 0), (process.pid, 1)):
            looked = subprocess.run([*as_user(signer, "", look), str(pid)], check=False, capture_output=True, text=True)
            assert looked.returncode == code, looked.stderr
        assert "PermissionError" in looked.stderr, "nor can another process of its own user look into it"
        other.communicate()
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert not (run / "s").exists()
