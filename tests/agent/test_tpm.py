"""Keys of a device that the TPM of its board wraps: what a copy of its disk is worth, and a power cut while they are moved."""

import itertools
import json
import os
import queue
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgefleet_agent.__main__ import main
from edgefleet_agent.core.durable import write_file, write_record
from edgefleet_agent.enrolment import key_move, server_api
from edgefleet_agent.enrolment.wrapped_key import opened
from edgefleet_agent.errors import TpmError
from edgefleet_agent.identity import tpm_secret
from edgefleet_agent.identity.store import RECORD_FILE, load_identity
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.serving import supervisor
from edgefleet_agent.verifier.errors import ModelKeyError, OwnKeyError
from edgefleet_protocol.hpke import new_key, public_of
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import TRANSIENT
from tests.agent.field import Agent, eventually
from tests.agent.listener import Listener
from tests.agent.test_enroll import listener
from tests.agent.test_sealed_way import want_sealed
from tests.agent.worker.supervised import House
from tests.house.pages import shell_blocks
from tests.server.fleet.house import FACTS
from tests.server.gateway.conftest import Site
from tests.support import tpms

__all__ = ["listener"]

needs_tpm = pytest.mark.skipif(bool(tpms.MISSING), reason=tpms.WHY)
PLAIN = b"BEGIN PRIVATE KEY"


@pytest.fixture
def board() -> Iterator[tpms.Tpm]:
    """The TPM of the device's board."""
    made = tpms.Tpm()
    yield made
    made.close()


@pytest.fixture
def thief() -> Iterator[tpms.Tpm]:
    """That of another board."""
    made = tpms.Tpm()
    yield made
    made.close()


def command_of(words: str) -> list[str]:
    """Return the arguments of `edge-agent` in the line of docs/operate/tpm.md that begins with these words."""
    lines = [line for block in shell_blocks(Path("docs/operate/tpm.md")) for line in block.text.splitlines()]
    return next(line for line in lines if line.startswith(f"edge-agent {words}")).split()[1:]


def plain_keys(state: Path) -> list[str]:
    """Return the files below a state folder that hold a private key as it is."""
    files = [file for file in state.rglob("*") if file.is_file()]
    plain = [
        file for file in files if PLAIN in file.read_bytes() or (file.name == "model-key" and file.stat().st_size == 32)
    ]
    return [str(file.relative_to(state)) for file in plain]


@needs_tpm
def test_the_copy_of_a_flash_card_is_worth_nothing_on_another_board(
    site: Site, board: tpms.Tpm, thief: tpms.Tpm, tmp_path: Path
) -> None:
    state = tmp_path / "device"
    state.mkdir()
    told = server_api.kept_model_key(StatePaths(state).model_key)
    device = Agent(site, state, site.house.device(FACTS | {"model_key": told}), **board.environment)
    copy = Agent(site, tmp_path / "copy", device.device, **thief.environment)
    shutil.rmtree(copy.state)
    try:
        device.start()
        want_sealed(site, "1.0.0")
        device.wait("committed", "1.0.0")
        assert set(plain_keys(state)) == {"identity/key.pem", "model-key"}
        moved = device.command(*command_of("tpm"), "-o", "json")  # the agent runs on meanwhile
        assert moved.returncode == 0, moved.stderr
        assert json.loads(moved.stdout)["moved"] == ["model-key", "identity/key.pem"]
        assert plain_keys(state) == []
        device.stop()

        device.start()  # as after a reboot
        assert device.comes_to_answer("1.0.0") if eventually(lambda: device.model().get("serving")) else False
        assert eventually(lambda: device.status().get("connected")), device.log.read_text()
        assert eventually(lambda: site.house.fleet.reader.device(device.id).facts.get("key_storage") == "tpm")
        device.stop()

        shutil.copytree(state, copy.state, symlinks=True)
        copy.log.unlink()
        copy.start()
        assert eventually(lambda: "worker waits" in copy.log.read_text()), copy.log.read_text()
        assert eventually(lambda: "disconnected reason=TpmError: the TPM does not give back" in copy.log.read_text()), (
            "it says why"
        )
        assert not copy.model().get("serving")
        assert not copy.status().get("connected")
        asked = copy.command("renew")
        assert asked.returncode == 1
        assert "agent.tpm" in asked.stderr
        assert "enrol again" in asked.stderr
        looked = json.loads(copy.command("doctor", "-o", "json").stdout)
        assert [one for one in looked["findings"] if "the TPM does not give back" in one["what"]], looked
        assert copy.model()["active_target"].startswith("digits/1.0.0/"), "that says nothing of the version"
        (copy.state / "tpm-key").write_bytes(b"torn")
        looked = json.loads(copy.command("doctor", "-o", "json").stdout)
        assert [one for one in looked["findings"] if "tpm-key is torn" in one["what"]], looked
        assert plain_keys(copy.state) == []
    finally:
        device.stop()
        copy.stop()


@needs_tpm
def test_a_device_that_enrols_with_its_tpm_never_has_a_plain_key_on_its_disk(
    listener: Listener, board: tpms.Tpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("TPM2TOOLS_TCTI", board.environment["TPM2TOOLS_TCTI"])
    state = tmp_path / "device"
    written: list[bytes] = []

    def noted(path: Path, data: bytes, **options: Any) -> None:
        written.append(data)
        write_file(path, data, **options)

    monkeypatch.setattr(server_api, "write_file", noted)
    words = [listener.token() if word == "TOKEN" else word for word in command_of("enroll")]
    assert main([*words, "--state", str(state)]) == 0
    identity = load_identity(state / "identity")
    assert len(written) == 2  # model-key and the pending key
    assert not [data for data in written if PLAIN in data or len(data) == 32]
    assert plain_keys(state) == []
    assert listener.house.fleet.reader.device(identity.device).facts["key_storage"] == "tpm"
    told = listener.house.fleet.devices.model_key_of(DeviceId(identity.device))
    own = opened((state / "model-key").read_bytes(), tpm_secret.model_secret(state))
    assert public_of(own).hex() == told

    write_record(state / "identity" / RECORD_FILE, msgspec.structs.replace(identity, url=listener.url))
    assert main([*command_of("renew"), "--state", str(state)]) == 0
    assert plain_keys(state) == []
    assert (state / "identity" / "next" / "key.pem").exists()

    capsys.readouterr()
    assert main([*command_of("tpm --to-files"), "--state", str(state), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["key_storage"] == "file"
    assert set(plain_keys(state)) == {"identity/key.pem", "identity/next/key.pem", "model-key"}
    assert not (state / "tpm-key").exists()
    assert server_api.kept_model_key(state / "model-key") == told


def test_without_the_tools_a_move_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    server_api.kept_model_key(tmp_path / "model-key")
    assert main(["tpm", "--state", str(tmp_path)]) == 1
    assert "apt-get install tpm2-tools" in capsys.readouterr().err
    assert plain_keys(tmp_path) == ["model-key"]


# ---- power cuts


class PowerCutError(Exception):
    """The power went."""


class Disk:
    """Lets the power go at the n-th change of the disk, before it (even n) or after it (odd)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        monkeypatch.setattr(Path, "replace", self._cutting(Path.replace))
        monkeypatch.setattr(Path, "unlink", self._cutting(Path.unlink))

    def _cutting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def cut(path: Path, *arguments: Any, **options: Any) -> Any:
            if not path.exists():
                return call(path, *arguments, **options)
            self._tick()
            answer = call(path, *arguments, **options)
            self._tick()
            return answer

        return cut

    def _tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise PowerCutError


def sealed_without_a_tpm(state: Path) -> bytes:
    """Do as `make_secret`, with a secret that this process knows."""
    secret = b"s" * tpm_secret.KEY_BYTES
    tpm_secret._opened[(state, b"private")] = secret
    write_record(state / tpm_secret.TPM_FILE, tpm_secret.SealedSecret(b"public", b"private"))
    return secret


@pytest.mark.parametrize("to_tpm", [True, False])
def test_a_power_cut_at_any_moment_leaves_every_key_and_the_same_command_ends_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, to_tpm: bool
) -> None:
    monkeypatch.setattr(key_move, "make_secret", sealed_without_a_tpm)
    disk = Disk(monkeypatch)
    names = ["identity/key.pem", "identity/next/key.pem", "identity/renewal-key.pem"]
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
    own = new_key()[0]
    ends = False
    for cut, times in itertools.product(range(60), (1, 2)):
        state = tmp_path / f"{cut}-{times}"
        (state / "identity" / "next").mkdir(parents=True)
        for name, key in keys.items():
            write_file(state / name, server_api.key_pem(key, b""))
        write_file(state / "model-key", own)
        of_agentd = state / "identity" / ".places.msgpack.tmp"
        of_agentd.touch()  # it may be writing just now
        if not to_tpm:
            key_move.move_keys(state)
        for _ in range(times):
            disk.left = cut
            try:
                key_move.move_keys(state, to_tpm=to_tpm)
                ends = times == 1
            except PowerCutError:
                pass
            disk.left = None
            for name, key in keys.items():
                found = server_api.load_key(state / name)
                assert found is not None
                assert found.private_numbers() == key.private_numbers()
            assert opened((state / "model-key").read_bytes(), tpm_secret.model_secret(state)) == own
            if b"ENCRYPTED" in (state / names[0]).read_bytes():
                left = [name for name in plain_keys(state) if not name.endswith(".tmp")]
                assert left == [], "what a device says of its keys holds for all"
        key_move.move_keys(state, to_tpm=to_tpm)
        assert set(plain_keys(state)) == (set() if to_tpm else {*names, "model-key"})
        assert (state / tpm_secret.TPM_FILE).exists() == to_tpm
        assert of_agentd.exists()
        if ends:
            break
    assert ends, "every moment was tried"
    assert cut >= 8


def test_wrapped_keys_without_the_file_of_the_tpm_are_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_move, "make_secret", sealed_without_a_tpm)
    server_api.kept_key(tmp_path / "pending-key.pem")
    key_move.move_keys(tmp_path)
    (tmp_path / tpm_secret.TPM_FILE).unlink()
    with pytest.raises(TpmError, match="tpm-key is missing"):
        server_api.kept_key(tmp_path / "pending-key.pem")


# ---- a TPM that is away


def test_a_tpm_that_is_away_is_no_crash_of_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_folder: Path) -> bytes:
        raise TpmError("the TPM does not answer")

    monkeypatch.setattr(tpm_secret, "secret_of", away)
    monkeypatch.setattr(supervisor, "KEYS_AGAIN_S", 0.1)
    started: list[str] = []
    house = House(tmp_path)
    try:
        monkeypatch.setattr(house, "before_start", started.append)
        monkeypatch.setattr(house.slots, "model_key", lambda _model, _slot: b"sealed")
        house.refs["digits"] = house.put("digits", "A", "1.0.0", b"no bundle")
        house.do(lambda: house.serving.serve("digits", house.refs["digits"]))
        with pytest.raises(queue.Empty):
            house.happened.get(timeout=0.3)
        assert started == []
        monkeypatch.setattr(tpm_secret, "secret_of", lambda _folder: b"")
        house.wait_for("exit", "digits")  # a worker was tried, and it is no bundle
        assert started
    finally:
        house.close()


def test_a_tpm_that_failed_is_left_alone_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def hangs(folder: Path, _sealed: tpm_secret.SealedSecret) -> bytes:
        asked.append(folder)
        raise TpmError("the TPM does not answer", next_step="wait")

    monkeypatch.setattr(tpm_secret, "_unseal", hangs)
    write_record(tmp_path / tpm_secret.TPM_FILE, tpm_secret.SealedSecret(b"public", b"hangs"))
    for _ in range(3):  # as many sealed models: each would hold up agentd until systemd's watchdog ends it
        with pytest.raises(TpmError, match="does not answer") as caught:
            tpm_secret.secret_of(tmp_path)
        assert caught.value.next_step == "wait"
    assert len(asked) == 1
    later_s = time.monotonic() + tpm_secret.AWAY_S
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    with pytest.raises(TpmError):
        tpm_secret.secret_of(tmp_path)
    assert len(asked) == 2


def test_a_bundle_is_not_quarantined_because_a_tpm_was_away() -> None:
    assert OwnKeyError.error_class in TRANSIENT
    assert ModelKeyError.error_class not in TRANSIENT


def test_keys_are_not_moved_out_of_reach_of_the_agents_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "identity").mkdir()
    server_api.kept_key(tmp_path / "identity" / "key.pem")
    monkeypatch.setattr(key_move, "make_secret", sealed_without_a_tpm)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert main(["tpm", "--state", str(tmp_path)]) == 1
    assert "belong to this user" in capsys.readouterr().err
    assert plain_keys(tmp_path) == ["identity/key.pem"]


def test_the_page_shows_the_file_for_systemd_as_it_is() -> None:
    lines = [line for line in Path("deploy/edge-agent-tpm.conf").read_text().splitlines() if not line.startswith("#")]
    assert "\n".join(lines) in Path("docs/operate/tpm.md").read_text()
    assert "BindPaths=-/dev/tpmrm0" in lines, "a unit whose TPM is gone starts"
