"""Saved contexts: private, whole, chosen by name."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from edgefleet_cli.admin.access.login_commands import server_url
from edgefleet_cli.core.contexts import ConfigError, Context, load_contexts
from edgefleet_cli.core.errors import UsageError
from tests.cli.conftest import Edgectl


def test_a_saved_context_is_read_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "edgectl.json"
    load_contexts(path).put(Context("lab", "http://127.0.0.1:1", "secret", "/ca.pem"), make_current=True)
    again = load_contexts(path)
    assert again.get(None) == Context("lab", "http://127.0.0.1:1", "secret", "/ca.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["edgectl.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"contexts": [{}]}', '{"contexts": 5}', '{"contexts": ["x"]}'])
def test_a_broken_file_is_named_and_never_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "edgectl.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"edgectl\.json"):
        load_contexts(path)
    assert path.read_text() == content


def test_contexts_are_added_listed_used_and_removed(edgectl: Edgectl) -> None:
    assert edgectl("context", "list", "-o", "json").json == {"items": []}
    assert edgectl("context", "add", "lab", "--server", "http://127.0.0.1:9", "--token", "edg_secret").code == 0
    assert edgectl("context", "add", "prod", "--server", "https://fleet.example").code == 0
    listed = edgectl("context", "list", "-o", "json")
    assert [item["name"] for item in listed.json["items"]] == ["lab", "prod"]
    assert "edg_secret" not in listed.out
    assert edgectl("context", "use", "prod").code == 0
    assert edgectl("context", "show", "-o", "json").json["name"] == "prod"
    assert edgectl("context", "list", "-o", "name").out.split() == ["lab", "prod"]
    assert edgectl("context", "remove", "lab").code == 3, "removing asks, and nobody can be asked here"
    assert edgectl("context", "remove", "lab", "--yes").code == 0
    assert [item["name"] for item in edgectl("context", "list", "-o", "json").json["items"]] == ["prod"]


def test_logout_forgets_only_the_token(edgectl: Edgectl) -> None:
    edgectl("context", "add", "lab", "--server", "http://127.0.0.1:9", "--token", "edg_secret")
    assert edgectl("logout").code == 0
    shown = edgectl("context", "show", "-o", "json").json
    assert shown["logged_in"] is False
    assert shown["server"] == "http://127.0.0.1:9"
    assert "edg_secret" not in json.dumps(shown)


def test_a_context_that_is_not_there_is_a_usage_error(edgectl: Edgectl) -> None:
    ran = edgectl("device", "list", "--context", "nope")
    assert ran.code == 2
    what, _why, next_step = ran.told()
    assert "'nope'" in what
    assert "edgectl context list" in next_step


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("localhost:8080", "http://localhost:8080"),
        ("fleet.example", "https://fleet.example"),
        ("https://fleet.example/edge/", "https://fleet.example/edge"),
    ],
)
def test_addresses_of_servers_are_completed(given: str, url: str) -> None:
    assert server_url(given) == url


@pytest.mark.parametrize("given", ["ftp://x", "http://", "://x"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        server_url(given)
