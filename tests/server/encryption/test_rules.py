"""A sealed text opens with its key at its place, and in no other way."""

import os
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.encryption import rules
from edgefleet_server.encryption.errors import KeyUnreadableError, KeyWrongError, NotOpenedError
from edgefleet_server.encryption.model import KeyRing, Place, SealedValue

KEY = rules.key_of(bytes(range(32)))
OTHER = rules.key_of(bytes(32))
PLACE = Place("webhook_secret", "secret", "wh-a/1")
SECRET = "whsec_c2VjcmV0"


def sealed(place: Place = PLACE, plain: str = SECRET) -> str:
    """Seal with KEY."""
    return rules.seal(KEY, os.urandom(rules.NONCE_BYTES), place, plain)


@given(st.text(max_size=3000), st.text(max_size=40), st.booleans())
def test_what_is_sealed_opens_at_its_place_with_old_keys_there(plain: str, row: str, is_old: bool) -> None:
    place = Place("t", "c", row)
    ring = KeyRing((OTHER, KEY) if is_old else (KEY,))
    text = sealed(place, plain)
    assert rules.open_value(ring, SealedValue(place, text)) == plain
    assert rules.key_id_of(text) == KEY.id


@pytest.mark.parametrize(
    "place",
    [
        Place("webhook_secret", "secret", "wh-a/2"),
        Place("webhook_secret", "secret", "wh-b/1"),
        Place("webhook_secret", "url", "wh-a/1"),
        Place("alert_contact_secret", "secret", "wh-a/1"),
    ],
)
def test_what_was_moved_to_another_row_or_column_does_not_open(place: Place) -> None:
    with pytest.raises(NotOpenedError, match="moved"):
        rules.open_value(KeyRing((KEY,)), SealedValue(place, sealed()))


@given(st.data())
def test_no_changed_character_goes_unseen(data: st.DataObject) -> None:
    text = sealed()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda one: one != text[at]))
    changed = text[:at] + new + text[at + 1 :]
    with pytest.raises((NotOpenedError, KeyWrongError)):
        assert rules.open_value(KeyRing((KEY,)), SealedValue(PLACE, changed)) != SECRET


def test_a_key_under_the_id_of_another_does_not_open() -> None:
    text = sealed().replace(KEY.id, OTHER.id)
    with pytest.raises(NotOpenedError):
        rules.open_value(KeyRing((OTHER, KEY)), SealedValue(PLACE, text))


def test_plain_text_is_refused_and_a_missing_key_is_named() -> None:
    with pytest.raises(NotOpenedError, match="not sealed"):
        rules.open_value(KeyRing((KEY,)), SealedValue(PLACE, SECRET))
    with pytest.raises(KeyWrongError, match=f"{KEY.id}; the keys found are {OTHER.id}"):
        rules.open_value(KeyRing((OTHER,)), SealedValue(PLACE, sealed()))


def test_key_files_are_read_as_they_are_written_and_refused_without_quoting_them() -> None:
    ring = KeyRing((OTHER, KEY))
    assert rules.parse_keys(rules.key_text(ring), "x") == ring
    for text in ("", "# only a comment\n", "c2hvcnQ=", "not-b64!", "AAAA" * 11 + "  c2hvcnRlcg=="):
        with pytest.raises(KeyUnreadableError) as refused:
            rules.parse_keys(text, "the file k")
        assert "the file k" in refused.value.message
        assert not [word for word in text.partition("#")[0].split() if word in refused.value.message]


def test_neither_keys_nor_secrets_are_in_representations_or_tracebacks() -> None:
    value = SealedValue(PLACE, SECRET)
    shown = [repr(one) for one in (KEY, KeyRing((KEY,)), value)]
    for bad in (value, SealedValue(Place("t", "c", "r"), sealed())):
        try:
            rules.open_value(KeyRing((KEY,)), bad)
        except NotOpenedError as error:
            shown += traceback.format_exception(error)
    for text in shown:
        assert SECRET not in text
        assert repr(KEY.data) not in text
