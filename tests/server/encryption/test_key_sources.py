"""Where the key comes from, in the order of the settings; Vault by a stand-in of its HTTP API (KV), not Vault itself."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.encryption import rules
from edgefleet_server.encryption.errors import KeyUnreadableError
from edgefleet_server.encryption.key_sources import KeyFile, source_of
from edgefleet_server.encryption.model import Kept, KeyRing
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import load_settings, secret_names

KEYS = [rules.key_text(KeyRing((rules.key_of(bytes([n]) * 32),))).splitlines()[1].split()[0] for n in range(5)]


def newest(folder: Path) -> tuple[str, Kept]:
    """Return which of KEYS is in force, and where from."""
    source = source_of(load_settings(folder))
    ring = source.read()
    assert ring is not None
    return ring.newest.id, source.kept


def key_id(number: int) -> str:
    """Return the id of one of KEYS."""
    return rules.parse_keys(KEYS[number], "x").newest.id


@contextmanager
def vault_stand_in(token: str, answer: tuple[int, Any]) -> Iterator[str]:
    """Answer as Vault's KV engine does: 403 without the token, else `answer`. Yields the URL of a secret."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (
                answer if self.headers["X-Vault-Token"] == token else (403, {"errors": ["permission denied"]})
            )
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/secret/data/edgefleet"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_sources_have_an_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeyFile(tmp_path / "keys" / "secrets.key").write(rules.parse_keys(KEYS[0], "x"))
    assert newest(tmp_path) == (key_id(0), Kept.FILE)
    monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_KEY", KEYS[1])
    assert newest(tmp_path) == (key_id(1), Kept.ENVIRONMENT)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert newest(tmp_path) == (key_id(1), Kept.ENVIRONMENT)  # the unit hands over others only
    (credentials / "edgefleet.secrets_key").write_text(KEYS[2])
    assert newest(tmp_path)[0] == key_id(2)
    monkeypatch.delenv("EDGEFLEET_SERVER_SECRETS_KEY")
    (tmp_path / "mounted").write_text(KEYS[3] + "\n")
    monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_KEY_FILE", str(tmp_path / "mounted"))
    assert newest(tmp_path)[0] == key_id(3)
    with vault_stand_in("t0ken", (200, {"data": {"data": {"key": KEYS[4]}, "metadata": {"version": 3}}})) as url:
        monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_VAULT_URL", url)
        (tmp_path / "token").write_text("t0ken\n")
        monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_VAULT_TOKEN_FILE", str(tmp_path / "token"))
        assert newest(tmp_path) == (key_id(4), Kept.VAULT)


def test_a_source_that_is_named_and_not_there_is_no_reason_to_take_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyFile(tmp_path / "keys" / "secrets.key").write(rules.parse_keys(KEYS[0], "x"))
    monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(KeyUnreadableError, match="missing cannot be read"):
        newest(tmp_path)
    monkeypatch.setenv("EDGEFLEET_SERVER_SECRETS_VAULT_URL", "http://127.0.0.1:9/v1/secret/data/edgefleet")
    with pytest.raises(KeyUnreadableError, match="Vault does not answer"):
        newest(tmp_path)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, {"data": {"key": KEYS[0]}}), ""),
        ((404, {"errors": []}), "no such secret"),
        ((503, {"errors": ["sealed"]}), "answered 503"),
        ((307, {}), "answered 307"),
        ((200, {"data": {"data": {"value": "s3cret-value"}}}), "no field 'key'"),
        ((200, {"data": {"data": {"key": 7}}}), "no text"),
        ((200, ["s3cret-value"]), "no field"),
        ((200, {"data": {"data": {"key": "s3cret-value"}}}), "not 32 bytes"),
    ],
)
def test_what_vault_answers_is_a_key_or_an_error_that_quotes_nothing(
    answer: tuple[int, Any], why: str, tmp_path: Path
) -> None:
    with vault_stand_in("t0ken", answer) as url:
        source = source_of(load_settings(tmp_path, secrets_vault_url=url, secrets_vault_token="t0ken"))
        assert "t0ken" not in repr(source)
        if not why:
            assert source.read() is not None
            return
        with pytest.raises(KeyUnreadableError, match=why) as refused:
            source.read()
        assert "t0ken" not in refused.value.message
        assert "s3cret" not in refused.value.message


def test_vault_gets_no_token_without_encryption_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    far = load_settings(
        tmp_path, secrets_vault_url="http://vault.example:8200/v1/secret/data/e", secrets_vault_token="t0ken"
    )
    with pytest.raises(KeyUnreadableError, match="without encryption"):
        source_of(far).read()
    with (
        vault_stand_in("t0ken", (200, {})) as url,
        pytest.raises(KeyUnreadableError, match="the token may not read it"),
    ):
        source_of(load_settings(tmp_path, secrets_vault_url=url, secrets_vault_token="other")).read()


def test_every_setting_that_is_a_secret_can_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"database_url", "secrets_key", "secrets_vault_token"} <= set(secret_names())
    for name in secret_names():
        file = tmp_path / name
        file.write_text(f"postgresql://u:{name}@h/d\n")
        monkeypatch.setenv(f"EDGEFLEET_SERVER_{name.upper()}_FILE", str(file))
        settings = load_settings(tmp_path)
        assert settings.secret(name) == f"postgresql://u:{name}@h/d"
        with pytest.raises(SettingsError, match=f"{name} and {name}_file are both set"):
            load_settings(tmp_path, **{name: "x"})
        file.unlink()
        with pytest.raises(SettingsError, match="cannot be read"):
            load_settings(tmp_path).secret(name)
        monkeypatch.delenv(f"EDGEFLEET_SERVER_{name.upper()}_FILE")


def test_the_database_url_comes_from_its_file_or_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgefleet.database_url").write_text("postgresql://u:credential@h/d\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_settings(tmp_path).database == "postgresql://u:credential@h/d"
    (tmp_path / "url").write_text("postgresql://u:file@h/d\n")
    assert load_settings(tmp_path, database_url_file=tmp_path / "url").database == "postgresql://u:file@h/d"


def test_a_setting_whose_file_is_empty_is_refused_and_no_other_database_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(" \n")
    with pytest.raises(SettingsError, match="is empty"):
        assert load_settings(tmp_path, database_url_file=file).database
    with pytest.raises(SettingsError, match="is empty"):
        source_of(
            load_settings(tmp_path, secrets_vault_url="https://vault:8200/v1/secret/x", secrets_vault_token_file=file)
        )


def test_a_key_file_that_root_rotates_stays_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `sudo edgectl server seal --rotate`: a file of root's, 0600, would end the next start of the server."""
    path = tmp_path / "secrets.key"
    path.write_text(KEYS[0])
    path.chmod(0o640)
    given: list[tuple[int, int]] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.fchown", lambda _file, user, group: given.append((user, group)))
    KeyFile(path).write(KeyRing((rules.key_of(bytes([1]) * 32),)))
    assert given == [(path.parent.stat().st_uid, path.parent.stat().st_gid)]
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o666)
    KeyFile(path).write(KeyRing((rules.key_of(bytes([2]) * 32),)))
    assert path.stat().st_mode & 0o777 == 0o640
    path.unlink()
    KeyFile(path).write(KeyRing((rules.key_of(bytes([3]) * 32),)))
    assert path.stat().st_mode & 0o777 == 0o600
