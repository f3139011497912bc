"""Which broker a setting means on which machine, and the files mosquitto gets."""

from __future__ import annotations

import dataclasses
import itertools
import stat
from pathlib import Path

import pytest
from paho.mqtt.client import topic_matches_sub

from edgefleet_protocol.ids import DeviceId, TenantId
from edgefleet_protocol.topics import DN_LEAVES, UP_LEAVES, Topics, may
from edgefleet_server.gateway.broker.errors import BrokerSettingError
from edgefleet_server.gateway.broker.model import (
    BrokerConfig,
    BrokerKind,
    Version,
    choose_broker,
    find_mosquitto,
    memory_for,
    mosquitto_version,
)
from edgefleet_server.gateway.broker.mosquitto import access_text, configuration_text, write_files

BINARY = "/opt/mosquitto"
KIB, MIB = 1024, 1024 * 1024


@pytest.mark.parametrize(
    ("setting", "binary", "version", "kind", "words"),
    [
        ("auto", BINARY, (2, 0, 21), "mosquitto", "2.0.21"),
        ("auto", BINARY, (2, 1, 0), "mosquitto", "2.1.0"),
        ("auto", BINARY, (2, 0, 17), "embedded", "older than 2.0.18"),
        ("auto", BINARY, (1, 6, 12), "embedded", "older than 2.0.18"),
        ("auto", BINARY, (3, 0, 0), "embedded", "no longer reads"),
        ("auto", BINARY, None, "embedded", "does not tell"),
        ("auto", None, None, "embedded", "no mosquitto binary"),
        ("mosquitto", BINARY, (2, 0, 18), "mosquitto", "2.0.18"),
        ("embedded", BINARY, (2, 0, 21), "embedded", "the setting"),
        ("mqtts://mqtt.example", None, None, "external", "mqtt.example:8883"),
        ("mqtts://mqtt.example:1234/", None, None, "external", "mqtt.example:1234"),
    ],
)
def test_choice(setting: str, binary: str | None, version: Version | None, kind: str, words: str) -> None:
    choice = choose_broker(setting, find=lambda: binary, version_of=lambda _path: version)
    assert choice.kind == kind
    assert words in choice.reason


@pytest.mark.parametrize(
    ("setting", "version"),
    [
        ("mosquitto", (2, 0, 11)),
        ("rabbit", (2, 0, 21)),
        ("mqtt://plain.example", (2, 0, 21)),
        ("mqtts://", (2, 0, 21)),
        ("mqtts://h:99999", (2, 0, 21)),
        ("mqtts://user:secret@h", (2, 0, 21)),
        ("mqtts://h/path", (2, 0, 21)),
    ],
)
def test_setting_that_cannot_be_carried_out(setting: str, version: Version) -> None:
    with pytest.raises(BrokerSettingError) as caught:
        choose_broker(setting, find=lambda: BINARY, version_of=lambda _path: version)
    assert caught.value.next_step


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto binary")
def test_version_of_the_real_binary() -> None:
    binary = find_mosquitto()
    assert binary is not None
    version = mosquitto_version(binary)
    assert version is not None
    assert version >= (1, 0, 0)
    assert mosquitto_version("/nowhere/mosquitto") is None


def _config(folder: Path) -> BrokerConfig:
    return BrokerConfig(
        BrokerKind.MOSQUITTO, "acme", folder / "ca", folder / "crt", folder / "key", folder / "run", servers=("srv-a",)
    )


def test_files_are_private_and_complete(tmp_path: Path) -> None:
    path = write_files(_config(tmp_path), 1234)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["mosquitto.acl", "mosquitto.conf"]
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in path.parent.iterdir())
    lines = path.read_text().splitlines()
    assert "listener 1234 127.0.0.1" in lines
    # `allow_anonymous true` is only safe while each listener wants a certificate and takes the user from it
    assert [sum(line.startswith(word) for line in lines) for word in ("listener ", "require_certificate true")] == [
        1,
        1,
    ]
    for needed in (
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous true",
        "persistence false",
    ):
        assert needed in lines


def test_access_file_names_each_server_and_nothing_wider() -> None:
    text = access_text("acme", ("srv-a", "srv-b"))
    assert text.count("topic readwrite ef/1/acme/#") == 2
    assert "user srv-a\n" in text
    assert "user srv-b\n" in text
    assert "pattern readwrite" not in text
    assert [line for line in text.splitlines() if "pattern write" in line] == [
        f"pattern write ef/1/acme/d/%u/up/{leaf}" for leaf in UP_LEAVES
    ]


def test_memory_of_mosquitto_is_limited(tmp_path: Path) -> None:
    limited = dataclasses.replace(_config(tmp_path), memory_bytes=memory_for(10_000))
    assert f"memory_limit {512 * MIB + 10_000 * 256 * KIB}" in write_files(limited, 1234).read_text().splitlines()
    assert memory_for(1) == memory_for(1_000)
    assert "memory_limit" not in write_files(_config(tmp_path), 1234).read_text()


def _access_file_lets(text: str, user: str, topic: str, *, publish: bool) -> bool:
    """Read an access file as mosquitto does: a message passes when a line for its reader or writer matches its topic."""
    whose = ""
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "user":
            whose = rest
        elif kind and (kind == "pattern" or whose == user):
            right, _, wanted = rest.partition(" ")
            is_right = right in ("readwrite", "write" if publish else "read")
            if is_right and topic_matches_sub(wanted.replace("%u", user), topic):
                return True
    return False


def test_access_file_says_the_same_as_the_rule() -> None:
    text = access_text("acme", ("srv-a",))
    ours, theirs = Topics(TenantId("acme")), Topics(TenantId("other"))
    one, two = DeviceId("d-1"), DeviceId("d-11")
    topics = [
        f"{of.prefix}/d/{device}/{way}/{leaf}"
        for of, device in itertools.product((ours, theirs), (one, two))
        for way, leaves in (("up", UP_LEAVES), ("dn", DN_LEAVES))
        for leaf in leaves
    ]
    for of in (ours, theirs):
        topics += [of.repo_head(), of.hold(), f"{of.prefix}/b/0a", f"{of.prefix}/stage/r-1"]
        topics += [
            f"{of.prefix}/repo/other",
            f"{of.prefix}/b/x/y",
            f"{of.prefix}/d/{one}",
            f"{of.prefix}/other",
            "$SYS/x",
        ]
    allowed = 0
    for user, topic, publish in itertools.product(("srv-a", one, two), topics, (True, False)):
        is_right = may("acme", user, topic, publish)
        assert _access_file_lets(text, user, topic, publish=publish) == is_right, (user, topic, publish)
        allowed += is_right
    assert 0 < allowed < len(topics) * 3


@pytest.mark.parametrize("servers", [("srv-a\nuser x",), ("srv-a b",), ("admin",), ("srv-#",), ("",)])
def test_name_that_would_break_the_access_file_is_refused(servers: tuple[str, ...]) -> None:
    with pytest.raises(BrokerSettingError):
        access_text("acme", servers)


def test_path_with_a_line_break_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(_config(tmp_path), ca_file=tmp_path / "a\nallow_anonymous true")
    with pytest.raises(BrokerSettingError):
        configuration_text(config, 1)
