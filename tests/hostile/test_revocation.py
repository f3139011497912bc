"""A revoked device is cut off by real brokers, and the two traps of revocation lists are seen: let everybody in, let nobody in."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.messages import Presence, encode
from edgefleet_server.events.model import EventFilter
from edgefleet_server.fleet.enrolment.model import DeviceIdentity
from edgefleet_server.fleet.errors import BadDeviceTokenError, DeviceRevokedError
from edgefleet_server.gateway import cut_off
from edgefleet_server.gateway.broker import mosquitto as mosquitto_files
from edgefleet_server.gateway.broker.connect_gate import Connect
from edgefleet_server.gateway.broker.connect_probe import Admission, try_connect
from edgefleet_server.gateway.broker.errors import RevocationListError
from edgefleet_server.gateway.broker.model import BrokerConfig, BrokerKind, find_mosquitto
from edgefleet_server.gateway.broker.mosquitto import CRL_NAME, write_revocation_list
from edgefleet_server.gateway.cut_off import ListState, RevocationNotInForceError
from edgefleet_server.signing.authority import DeviceAuthority
from tests.broker.client import Client, eventually
from tests.hostile import revocation
from tests.hostile.revocation import TOPICS, identity_of, is_let_in
from tests.house import soak
from tests.server.fleet.house import KeyedDevice
from tests.server.gateway.conftest import KINDS, Site

NOW = dt.datetime(2026, 11, 29, 12, 0, tzinfo=dt.UTC)


def _site(kind: BrokerKind, folder: Path, stack: ExitStack) -> Site:
    if kind is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")
    return revocation.site_of(kind, folder, stack)


@pytest.fixture(scope="module", params=KINDS)
def site(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site of each kind for all tests: each has devices of its own."""
    with ExitStack() as stack:
        made = _site(request.param, tmp_path_factory.mktemp("site"), stack)
        yield made
        made.close()


@pytest.fixture
def mosquitto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site on mosquitto whose lists of revoked certificates a test spoils, with a short patience."""
    monkeypatch.setattr(cut_off, "ALARM_AFTER", dt.timedelta(seconds=0))
    monkeypatch.setattr(cut_off, "SETTLE_S", 0.2)
    monkeypatch.setattr(cut_off, "POLL_S", 0.1)
    with ExitStack() as stack:
        made = _site(BrokerKind.MOSQUITTO, tmp_path, stack)
        eventually(lambda: _is_in_force(made), "the first list is in force")
        yield made
        made.close()


def test_a_revoked_device_is_cut_off_with_all_that_it_left_behind(site: Site, tmp_path: Path) -> None:
    result = revocation.revoke_some(site, soak.in_ci("revocation"), tmp_path)
    assert result["ok"], result


def test_a_kept_tls_session_does_not_outlive_the_certificate(site: Site, tmp_path: Path) -> None:
    device = site.house.device()
    identity = identity_of(device, tmp_path)
    context = ssl.create_default_context(cadata=device.enrolment.ca)
    context.load_cert_chain(identity.cert_file, identity.key_file)

    def connected(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        """Return the session once the broker has let the device in. Raises OSError."""
        plain = socket.create_connection((site.endpoint.host, site.endpoint.port), 10)
        with context.wrap_socket(plain, server_hostname=site.endpoint.host, session=session) as link:
            link.sendall(Connect(device.id, clean_session=True, keepalive_s=0).packet(30))
            if link.recv(4) != b"\x20\x02\x00\x00":
                raise ConnectionRefusedError("no CONNACK")
            return link.session

    kept = connected(None)
    site.house.fleet.revocation.revoke(device.id)
    eventually(lambda: site.house.fleet.reader.device(device.id).cut_off_at, "the device is cut off")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connected(kept)


def test_a_renewed_device_loses_its_old_certificate_when_the_new_one_has_connected(site: Site, tmp_path: Path) -> None:
    device, me = site.house.device(), TOPICS
    old = identity_of(device, tmp_path)
    renewed = KeyedDevice()
    caller = DeviceIdentity(device.id, device.enrolment.profile, "")
    renewed.enrolment = site.house.fleet.enrolment.renew(caller, renewed.csr())
    new = identity_of(renewed, tmp_path, number=1)

    # the answer may have been lost: until the new certificate was used, the old one is as good as before
    site.house.fleet.receiver.take_presence(device.id, _here("ab" * 16))
    assert is_let_in(site.endpoint, old)
    assert site.house.fleet.authenticator.authenticate(device.token(site.house.clock.now()))

    client = Client(site.endpoint, new).connect()
    try:
        client.publish(me.presence(device.id), encode(_here(_serial(renewed))), retain=True)
        eventually(lambda: not is_let_in(site.endpoint, old), "the old certificate is refused")
    finally:
        client.cut()
    assert is_let_in(site.endpoint, new)
    with pytest.raises(BadDeviceTokenError):
        site.house.fleet.authenticator.authenticate(device.token(site.house.clock.now()))
    assert site.house.fleet.authenticator.authenticate(renewed.token(site.house.clock.now()))


def test_nobody_revokes_certificates_of_others(site: Site, tmp_path: Path) -> None:
    victim, thief = site.house.device(), site.house.device()
    site.house.fleet.receiver.take_presence(thief.id, _here(_serial(victim)))
    assert site.house.signing.key_of_certificate(victim.id, _serial(victim)) is not None
    assert site.house.signing.key_of_certificate(thief.id, _serial(thief)) is not None


def test_a_device_that_was_just_revoked_gets_no_new_certificate(site: Site) -> None:
    device = site.house.device()
    site.house.fleet.revocation.revoke(device.id)
    with pytest.raises(DeviceRevokedError):  # as if the request had been authenticated a moment before
        site.house.fleet.enrolment.renew(DeviceIdentity(device.id, device.enrolment.profile, ""), KeyedDevice().csr())


@pytest.mark.broker
def test_a_list_that_cannot_be_read_lets_everybody_in_and_somebody_is_called(
    mosquitto: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = _spoiled(mosquitto, monkeypatch, lambda _: b"no list at all")
    assert "lets in a certificate that was revoked" in problems


@pytest.mark.broker
def test_a_list_that_has_expired_locks_everybody_out_and_somebody_is_called(
    mosquitto: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = DeviceAuthority(mosquitto.folder / "apart")
    long_ago = mosquitto.house.clock.now() - dt.timedelta(days=40)
    problems = _spoiled(mosquitto, monkeypatch, lambda serials: authority.issue_crl(serials, long_ago))
    assert "so no device can connect" in problems
    assert is_let_in(mosquitto.endpoint, identity_of(mosquitto.house.device(), tmp_path))


def _spoiled(site: Site, monkeypatch: pytest.MonkeyPatch, spoil: Any) -> str:
    """Let somebody spoil each list on the disk before mosquitto reads it; return what people were called for. Then let that end."""

    def spoiled(config: BrokerConfig) -> None:
        write_revocation_list(config)
        assert config.refused is not None
        (config.run_dir / CRL_NAME).write_bytes(spoil(sorted(config.refused.serials)))

    monkeypatch.setattr(mosquitto_files, "write_revocation_list", spoiled)
    device = site.house.device()
    site.house.fleet.revocation.revoke(device.id)
    problem = eventually(lambda: _alarm(site), "an alarm")
    assert site.cut_off.in_force() == 0
    assert site.house.fleet.reader.device(device.id).cut_off_at is None, "nothing is promised that was not seen"
    monkeypatch.setattr(mosquitto_files, "write_revocation_list", write_revocation_list)
    eventually(lambda: _is_in_force(site), "a good list is in force by itself")
    eventually(lambda: site.house.fleet.reader.device(device.id).cut_off_at, "the device is cut off")
    wanted = EventFilter(kinds=("revocation_failed", "revocation_in_force"))
    told = [event.kind for event in site.house.fleet.feed.after(0, wanted, 100)[0]]
    assert told[-2:] == ["revocation_failed", "revocation_in_force"]
    return str(problem)


def _is_in_force(site: Site) -> bool:
    return not _alarm(site) and site.cut_off.check() == "in force"


def _alarm(site: Site) -> str:
    try:
        site.cut_off.check()
    except RevocationNotInForceError as error:
        return error.message
    return ""


@pytest.mark.broker
def test_a_bad_list_never_replaces_a_good_one(mosquitto: Site) -> None:
    path = mosquitto.folder / "broker" / CRL_NAME
    signing, before = mosquitto.house.signing, path.read_bytes()
    good, _ = signing.refused_certificates("main")
    mosquitto.cut_off.stop()
    foreign = DeviceAuthority(mosquitto.folder)
    foreign.create(mosquitto.house.clock.now())
    for crl in (b"", b"garbage", good.crl[:-60], before, foreign.issue_crl(sorted(good.serials), NOW)):
        with pytest.raises(RevocationListError):
            mosquitto.broker.refuse(type(good)(good.serials, good.devices, crl, good.expires))
        assert path.read_bytes() == before


def test_when_a_list_is_issued_tried_and_people_are_called() -> None:
    day, second = dt.timedelta(days=1), dt.timedelta(seconds=1)
    state = ListState((1, NOW, ""), NOW, NOW + 30 * day, None, "", NOW)
    assert not cut_off.is_due(state, (1, NOW, ""), NOW + day - second)
    assert cut_off.is_due(state, (1, NOW, ""), NOW + day)
    assert cut_off.is_due(state, (2, NOW, ""), NOW)
    assert cut_off.is_due(state, (1, NOW, "other CAs"), NOW)
    assert cut_off.is_due(state, (1, NOW, ""), NOW - second), "a clock that was set back: the list may not be valid yet"
    assert not cut_off.is_to_try(state, NOW + second)
    assert cut_off.is_to_try(state, NOW + cut_off.TRY_EVERY)
    assert cut_off.alarm_of(state, NOW + 15 * day, second) == ""
    assert "expires at" in cut_off.alarm_of(state, NOW + 15 * day + second, second)

    bad = cut_off.tried(state, Admission.LET_IN, Admission.LET_IN, NOW)
    assert cut_off.alarm_of(bad, NOW, second) == ""
    assert "was revoked" in cut_off.alarm_of(bad, NOW + second, second)
    assert cut_off.tried(bad, Admission.REFUSED, Admission.REFUSED, NOW + second).bad_since == NOW
    away = cut_off.tried(bad, Admission.UNKNOWN, Admission.UNKNOWN, NOW)
    assert not away.in_force
    assert "reached" in away.problem
    assert cut_off.tried(away, Admission.REFUSED, Admission.LET_IN, NOW).in_force
    pause = cut_off.TRY_EXTERNAL_EVERY
    assert cut_off.is_to_try(away, NOW)
    assert not cut_off.is_to_try(away, NOW + second, pause), "an external broker is given time"
    assert cut_off.is_to_try(away, NOW + pause, pause)


@pytest.mark.parametrize("words", [b"", b"\x15\x03\x03\x00\x02\x02\x2c"])
def test_a_broker_that_only_ends_connections_is_not_taken_for_one_that_refuses(site: Site, words: bytes) -> None:
    """`words`: nothing, as of a broker without free descriptors, or the TLS alert of a revoked certificate."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def end() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(4096)
                link.sendall(words)

        ending = threading.Thread(target=end)
        ending.start()
        endpoint = replace(site.endpoint, host="127.0.0.1", port=listener.getsockname()[1])
        admission = try_connect(endpoint, site.house.signing.brief_identity("canary-main"))
        ending.join()
    assert admission is (Admission.REFUSED if words else Admission.UNKNOWN)
    assert try_connect(endpoint, site.house.signing.brief_identity("canary-main")) is Admission.UNKNOWN


def _serial(device: KeyedDevice) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(device.enrolment.cert.encode()).serial_number:x}"


def _here(serial: str) -> Presence:
    return Presence(on=True, conn_id="c1", boot_id="b1", ts=1, cert=serial)
