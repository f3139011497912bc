"""Settings: sources and their order, refusals in words."""

from pathlib import Path

import pytest

from edgefleet_server.process.conversion_worker import dump_settings, read_settings
from edgefleet_server.process.lifecycle import check_settings, is_loopback
from edgefleet_server.settings import ServerRole, SettingsError, load_settings


def test_the_environment_is_read_in_whatever_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("edgefleet_server_api_port", "2")
    assert load_settings(tmp_path).api_port == 2


def test_argument_wins_over_environment_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.toml").write_text('broker = "embedded"\ntenant = "acme"\napi_port = 1\n', encoding="utf-8")
    monkeypatch.setenv("EDGEFLEET_SERVER_API_PORT", "2")
    monkeypatch.setenv("EDGEFLEET_SERVER_BROKER", "mosquitto")
    settings = load_settings(tmp_path, broker="auto", device_port=None)
    assert (settings.broker, settings.api_port, settings.tenant) == ("auto", 2, "acme")
    assert settings.device_port == 8443
    assert settings.database == f"sqlite:///{tmp_path / 'edgefleet.db'}"


def test_unknown_and_wrong_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('colour = "red"\napi_port = 70000\ntenant = "A/B"\n', encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        load_settings(tmp_path)
    assert {name for name in ("colour", "api_port", "tenant") if name in refused.value.message} == {
        "colour",
        "api_port",
        "tenant",
    }


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("broker = [", encoding="utf-8")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(tmp_path)


def test_settings_are_frozen_and_hide_the_password(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, database_url="postgresql://u:hunter2@h/d", roles=("api", "engine"))
    assert "hunter2" not in repr(settings)
    assert settings.roles == (ServerRole.API, ServerRole.ENGINE)
    with pytest.raises(Exception, match="frozen"):
        settings.tenant = "x"


def test_plain_http_beyond_this_machine_is_refused_unless_a_proxy_does_tls(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="plain HTTP"):
        check_settings(load_settings(tmp_path, api_host="0.0.0.0"))
    check_settings(load_settings(tmp_path, api_host="0.0.0.0", behind_proxy=True))
    with pytest.raises(SettingsError, match="both a certificate and a key"):
        check_settings(load_settings(tmp_path, api_tls_cert=tmp_path / "c"))
    with pytest.raises(SettingsError, match="devices cannot connect"):
        check_settings(load_settings(tmp_path, device_host="0.0.0.0"))


@pytest.mark.parametrize(
    ("host", "answer"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("x", False)]
)
def test_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_worker_is_handed_the_secrets_that_it_needs_and_no_others(tmp_path: Path) -> None:
    given = load_settings(
        tmp_path, database_url="postgresql://u:hunter2@h/d", keys_passphrase="open sesame", secrets_key="sealing key"
    )
    worker = read_settings(dump_settings(given))
    assert (worker.database, worker.keys_secret, worker.secrets_key) == (given.database, None, None)
