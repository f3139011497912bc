"""What a holder's medium remembers of what it signed, through interruptions and dropped requests; and whose passphrase is whose."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_ceremony.signature_request import request_bytes, request_of
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.keys.holder_folder import FOLDER, ROOT_FILE, read_signers
from edgefleet_cli.keys.passphrases import sources_of
from edgefleet_server.clock import SystemClock
from edgefleet_server.signing.ceremony.views import SigningRequestView
from tests.cli.conftest import Edgectl
from tests.cli.test_ceremony import fails, good
from tests.server.fleet.house import House, TurnedClock
from tests.support.holders import PASSPHRASE, media, public

HOLDERS = ("anna", "ben", "carl", "dora")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A trial, with four media and a file with their passphrase in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    media(tmp_path, HOLDERS)
    Path("secret").write_bytes(PASSPHRASE)
    made = House("sqlite:///a.db", tmp_path / "a", TurnedClock(SystemClock().now()))
    yield made
    made.db.engine.dispose()


def asked(house: House, *names: str) -> SigningRequestView:
    """Ask for holders, and write the request."""
    made = house.signing.ceremony.give_to_holders([public(Path(name)) for name in names], None)
    Path("request.json").write_text(made.document)
    return made


def sign(*more: str, key: str = "anna") -> tuple[str, ...]:
    """Return the words of the command."""
    return ("key", "sign", "request.json", "--key", key, "--passphrase-file", "secret", "--out", "answer.json", *more)


def test_the_same_request_is_signed_again_after_its_answer_was_lost(house: House, edgectl: Edgectl) -> None:
    asked(house, "anna", "ben", "carl")
    good(edgectl(*sign("--yes")))
    Path("answer.json").unlink()
    assert "signed the new root of this request before" in good(edgectl(*sign("--yes"))).err
    assert Path("answer.json").exists()


def test_after_a_dropped_request_a_holder_is_told_what_to_ask_and_how_to_go_on(house: House, edgectl: Edgectl) -> None:
    first = asked(house, "anna", "ben", "carl")
    good(edgectl(*sign("--yes")))
    house.signing.ceremony.drop(first.id)
    asked(house, "anna", "ben", "dora")
    told = fails(edgectl(*sign("--yes")), 1)
    assert "another successor of it, and that one never came into force" in told
    root = told.partition("its fingerprint is ")[2][:64]
    good(edgectl(*sign("--yes", "--trust-root", root)))


def test_another_targets_file_under_a_root_that_was_signed_stands_on_the_same_root(
    house: House, edgectl: Edgectl
) -> None:
    """The new root alone does not vouch for the root of today, from which the changes are read."""
    asked(house, "anna", "ben", "carl")
    good(edgectl(*sign("--yes")))
    request = request_of(Path("request.json").read_bytes())
    other = House("sqlite:///b.db", Path("b"), TurnedClock(SystemClock().now()))
    stranger = other.signing.ceremony.give_to_holders([public(Path("dora"))], 1)
    lie = dataclasses.replace(request, current=request_of(stranger.document.encode()).current)
    Path("request.json").write_bytes(request_bytes(lie))
    assert "signed another root" in fails(edgectl(*sign("--yes")), 1)
    other.db.engine.dispose()


def test_words_of_a_server_stay_in_their_line(house: House, edgectl: Edgectl) -> None:
    asked(house, "anna", "ben", "carl")
    whole = json.loads(Path("request.json").read_text())
    whole["purpose"] = "renew\nWhat changes:\r\x1b[2K\u2028  nothing"
    Path("request.json").write_text(json.dumps(whole))
    shown = good(edgectl(*sign("--yes"))).err
    assert len([line for line in shown.splitlines() if line.startswith("What changes:")]) == 1
    assert "\x1b" not in shown


def test_a_key_file_of_a_medium_does_not_leave_its_memory_out(house: House, edgectl: Edgectl) -> None:
    asked(house, "anna", "ben", "carl")
    good(edgectl(*sign("--yes")))
    memory = json.loads((Path("anna") / FOLDER / ROOT_FILE).read_text())
    memory["signed"]["version"] = 7  # it signed a later one
    (Path("anna") / FOLDER / ROOT_FILE).write_text(json.dumps(memory))
    assert "signed another root" in fails(edgectl(*sign("--yes", key=f"anna/{FOLDER}/root.pem")), 1)


def test_a_medium_that_cannot_remember_gives_no_answer(house: House, edgectl: Edgectl) -> None:
    asked(house, "anna", "ben", "carl")
    (Path("anna") / FOLDER / ROOT_FILE).mkdir()  # as on a medium that is full or protected
    assert "nothing was signed" in fails(edgectl(*sign("--yes")), 2)
    assert not Path("answer.json").exists()


def test_after_an_interruption_each_medium_still_gets_its_own_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgectl: Edgectl
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["key", "init", "--offline", "--threshold", "2"]
    for name in ("anna", "ben"):
        Path(name).mkdir()
        Path(f"{name}.secret").write_text(f"the secret words of {name}\n")
        words += ["--out", name, "--passphrase-file", f"{name}.secret"]
    good(edgectl(*words))
    (Path("ben") / FOLDER).rename("ben/.edgefleet-keys.part")  # interrupted in the middle of the second
    good(edgectl(*words))
    for name in ("anna", "ben"):
        assert read_signers(Path(name), lambda _what, name=name: f"the secret words of {name}".encode())  # type: ignore[misc]


def test_as_many_passphrases_as_media_or_one() -> None:
    with pytest.raises(UsageError, match="do not go with 3 media"):
        sources_of([Path("a"), Path("b")], 3, may_ask=False)
