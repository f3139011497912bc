"""Settings: sources and their order, refusals in words."""

from pathlib import Path

import pytest

from edgefleet_server.process.conversion_worker import dump_settings, read_settings
from edgefleet_server.process.setting_check import check_settings, describe_settings, is_loopback
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import ServerRole, load_settings


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


def test_any_setting_may_be_in_a_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "value").write_text(" 7001\n", encoding="utf-8")
    (tmp_path / "server.toml").write_text("api_port = 1\n", encoding="utf-8")
    monkeypatch.setenv("EDGEFLEET_SERVER_API_PORT_FILE", str(tmp_path / "value"))
    assert load_settings(tmp_path).api_port == 7001
    monkeypatch.setenv("EDGEFLEET_SERVER_API_PORT", "2")
    with pytest.raises(SettingsError, match=r"EDGEFLEET_SERVER_API_PORT_FILE=.* both set api_port"):
        load_settings(tmp_path)
    monkeypatch.delenv("EDGEFLEET_SERVER_API_PORT")
    (tmp_path / "value").write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"of the setting api_port is empty"):
        load_settings(tmp_path)
    (tmp_path / "value").unlink()
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path)


def test_drop_ins_win_over_the_file_and_it_over_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials, drop_ins = tmp_path / "credentials", tmp_path / "server.toml.d"
    credentials.mkdir()
    drop_ins.mkdir()
    for name, text in (("api_port", "1"), ("broker", "embedded"), ("roles", "api, engine")):
        (credentials / f"edgefleet.{name}").write_text(text, encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (tmp_path / "server.toml").write_text('# who listens\napi_port = 2\ntenant = "acme"\n', encoding="utf-8")
    (drop_ins / "10-port.toml").write_text("api_port = 3\n", encoding="utf-8")
    (drop_ins / "20-port.toml").write_text("\napi_port = 4\n", encoding="utf-8")
    settings = load_settings(tmp_path, instance="a")
    assert (settings.api_port, settings.broker, settings.tenant) == (4, "embedded", "acme")
    assert settings.roles == (ServerRole.API, ServerRole.ENGINE)
    told = {one["name"]: (one["source"], one["where"]) for one in describe_settings(settings, {"instance": "a"})}
    assert told["api_port"] == ("file", "server.toml.d/20-port.toml:2")
    assert told["tenant"] == ("file", "server.toml:3")
    assert told["broker"] == ("credential", "edgefleet.broker")
    assert told["instance"] == ("flag", "instance")
    assert told["device_port"] == ("default", "")


def test_unknown_names_in_the_environment_are_refused_except_those_of_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_SERVER_PORT", "tcp://10.0.0.1:8080")  # a Service called edgefleet-server
    monkeypatch.setenv("EDGEFLEET_SERVER_API_PORT", "tcp://10.0.0.1:8080")  # one called edgefleet-server-api
    monkeypatch.setenv("EDGEFLEET_SERVER_API_PORT_8080_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("EDGEFLEET_SERVER_SERVICE_PORT_HTTP", "8080")
    monkeypatch.setenv("EDGEFLEET_SERVER_DATA", str(tmp_path))
    assert load_settings(tmp_path).api_port == 8080
    monkeypatch.setenv("EDGEFLEET_SERVER_DRAIN_SECONDS", "5")
    with pytest.raises(SettingsError, match="did you mean 'drain_s'"):
        load_settings(tmp_path)


def test_a_list_by_environment_is_json_or_words_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFLEET_SERVER_ROLES", '["api"]')
    assert load_settings(tmp_path).roles == (ServerRole.API,)
    monkeypatch.setenv("EDGEFLEET_SERVER_ROLES", "[api")
    with pytest.raises(SettingsError, match="roles: not valid JSON in EDGEFLEET_SERVER_ROLES"):
        load_settings(tmp_path)


def test_a_report_shows_no_secret_and_names_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFLEET_SERVER_DATABASE_URL", "postgresql://u:hunter2@h/d")
    (tmp_path / "pass").write_text("open sesame", encoding="utf-8")
    monkeypatch.setenv("EDGEFLEET_SERVER_KEYS_PASSPHRASE_FILE", str(tmp_path / "pass"))
    report = describe_settings(load_settings(tmp_path), {})
    assert "hunter2" not in str(report)
    assert "sesame" not in str(report)
    told = {one["name"]: one for one in report}
    assert (told["database_url"]["value"], told["database_url"]["where"]) == ("set", "EDGEFLEET_SERVER_DATABASE_URL")
    assert "environment of each child" in told["database_url"]["doubt"]
    assert (told["keys_passphrase"]["value"], told["keys_passphrase"]["source"]) == ("set", "environment")
