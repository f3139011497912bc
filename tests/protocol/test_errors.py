"""What an error says of its kind."""

from __future__ import annotations

from edgefleet_protocol.errors import BadMessageError, EdgefleetError, cause_of


class WornOutError(EdgefleetError):
    """The flash is worn out. Nothing was written.

    Not part of it.
    """

    code = "test.worn_out"


class WordlessError(EdgefleetError):  # a kind without a docstring, on purpose
    code = "test.wordless"


WordlessError.__doc__ = None


def test_the_cause_is_the_first_line_of_the_docstring() -> None:
    assert cause_of(WornOutError) == "The flash is worn out. Nothing was written."
    assert cause_of(WordlessError) == ""
    assert cause_of(BadMessageError) != ""


def test_the_reason_is_the_first_sentence_without_the_code() -> None:
    assert WornOutError("x").reason() == "the flash is worn out"
    assert WordlessError("x").reason() == ""
