"""The key folder goes from one device CA to the next: after a power cut between any two writes it is whole, and no key too many is left."""

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.signing import authority as ca
from edgefleet_server.signing.authority import DeviceAuthority
from edgefleet_server.signing.keys import key_files
from edgefleet_server.signing.keys.trusted_cas import fingerprint_of

NOW = datetime(2026, 12, 1, tzinfo=UTC)


class PowerCutError(Exception):
    """The machine lost power."""


def cut_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let the power fail at the write after so many: of names and of contents."""
    left = writes

    def guarded(plain: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCutError
            return plain(*args, **more)

        return write

    for name in ("replace", "hardlink_to", "unlink"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    monkeypatch.setattr(key_files, "write_private", guarded(key_files.write_private))


def made(folder: Path) -> DeviceAuthority:
    """Return a CA with one that is to follow."""
    first = DeviceAuthority(folder)
    first.create(NOW)
    first.make_next(NOW)
    return first


def keys_in(folder: Path) -> set[str]:
    """Return the names of files with something in them that could be a key."""
    return {one.name for one in folder.glob("*.pem") if one.read_bytes().strip(b"\0")}


def test_a_promotion_that_is_cut_off_anywhere_ends_with_the_next_ca_alone(tmp_path: Path) -> None:
    for writes in range(8):
        folder = tmp_path / str(writes)
        folder.mkdir()
        before = made(folder)
        old, new = before.certificate_pem(), before.next_pem()
        with pytest.MonkeyPatch.context() as patch:
            cut_after(patch, writes)
            try:
                before.promote_next()
                is_cut = False
            except PowerCutError:
                is_cut = True
        after = DeviceAuthority(folder)
        assert after.certificate_pem() in (old, new)
        after.issue_client(ca.new_p256_key().public_key(), "d-1", NOW, timedelta(days=1))
        assert after.promote_next() == new
        assert after.next_pem() is None
        assert keys_in(folder) == {ca.CA_KEY_FILE}
        assert DeviceAuthority(folder).certificate_pem() == new
    assert not is_cut, "the last round went through all writes"


def test_a_next_ca_that_is_half_made_or_half_dropped_counts_as_none(tmp_path: Path) -> None:
    for writes in range(6):
        for act in ("make_next", "drop_next"):
            folder = tmp_path / f"{act}-{writes}"
            folder.mkdir()
            before = made(folder)
            old = before.certificate_pem()
            with pytest.MonkeyPatch.context() as patch:
                cut_after(patch, writes)
                with contextlib.suppress(PowerCutError):
                    before.make_next(NOW) if act == "make_next" else before.drop_next()
            after = DeviceAuthority(folder)
            found = after.next_pem()
            assert after.certificate_pem() == old
            assert len(keys_in(folder)) == (1 if found is None else 2)
            assert after.issue_crl(["ab"], NOW).count(b"BEGIN X509 CRL") == len(keys_in(folder))


def test_names_that_reached_the_disk_in_another_order_are_mended(tmp_path: Path) -> None:
    """A file system may bring the second rename to the disk and lose the first."""
    first = made(tmp_path)
    new = first.next_pem()
    (tmp_path / ca.NEXT_CERT_FILE).replace(tmp_path / ca.CA_CERT_FILE)
    after = DeviceAuthority(tmp_path)
    assert after.certificate_pem() == new
    assert after.next_pem() is None
    assert keys_in(tmp_path) == {ca.CA_KEY_FILE}


def test_another_process_sees_a_promotion(tmp_path: Path) -> None:
    one = made(tmp_path)
    other = DeviceAuthority(tmp_path)
    assert other.certificate_pem() == one.certificate_pem()
    new = one.promote_next()
    assert other.certificate_pem() == new
    issued = other.issue_client(ca.new_p256_key().public_key(), "d-1", NOW, timedelta(days=1))
    assert issued.issuer == fingerprint_of(new)


def test_the_old_key_is_overwritten_and_not_only_unlinked(tmp_path: Path) -> None:
    one = made(tmp_path)
    os.link(tmp_path / ca.CA_KEY_FILE, tmp_path / "copy-of-the-blocks")
    one.promote_next()
    assert not (tmp_path / "copy-of-the-blocks").read_bytes().strip(b"\0")
