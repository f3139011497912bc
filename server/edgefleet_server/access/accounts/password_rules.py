"""Which passwords are taken, after NIST SP 800-63B: long enough, not easily guessed; no kinds of characters are asked for. Pure.

- 12 characters at least. A stolen database lets somebody try millions of hashes; 12 characters that are in no list are out of reach then.
  8, which the standard allows, are for accounts that a second factor guards.
- 256 at most, so that nobody sends books.
- Points, as Microsoft Entra counts them: a usual word, a year, a row of the keyboard, a run (`1234`, `aaaa`) or a part of the person's name
  counts one, each other character that was not counted yet one. MIN_POINTS are needed.
"""

import re
import unicodedata
from typing import Final

from edgefleet_server.access.errors import BadPasswordError

MIN_CHARS: Final = 12
MAX_CHARS: Final = 256
MIN_POINTS: Final = 6
_MIN_RUN: Final = 3
_MIN_PART: Final = 3
_LOOKS: Final = str.maketrans(
    {"@": "a", "$": "s", "0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "!": "i"}
)
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_ROWS: Final = (
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "1qaz2wsx3edc4rfv5tgb",
    "1q2w3e4r5t6z7u8i9o0p",
)
_TEXT: Final = """
password passwort passwd pass motdepasse contrasena senha parola admin administrator root user login welcome willkommen bienvenue
letmein iloveyou ichliebedich loveyou love secret geheim master monkey dragon sunshine princess football fussball baseball
basketball soccer superman batman spiderman pokemon starwars shadow michael jessica ashley daniel jordan thomas charlie matthew
andrew joshua robert hunter killer pepper ginger cookie chocolate cheese flower summer sommer winter spring autumn herbst january
february march april may june july august september october november december monday tuesday wednesday thursday friday saturday
sunday hello hallo bonjour ciao computer internet server system network database test testing default changeme change temp
temporary guest demo example sample qwerty azerty asdf trustno one two three four five six seven eight nine ten zero abc xyz the
and for you me my is it please open sesame please whatever nothing freedom forever family mother father baby angel money bitcoin
company firma edgefleet edgectl edge fleet device model operator
"""
_WORDS: Final = frozenset(_TEXT.split())
_LONGEST: Final = max(map(len, _WORDS))


def normal(password: str) -> str:
    """Return a password in the form that is hashed: NFKC, so that one word typed on two keyboards is the same."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, name: str) -> None:
    """Raise BadPasswordError unless a password may be used by the person of a name. It quotes nothing of the password."""
    text = normal(password)
    if len(text) < MIN_CHARS:
        raise BadPasswordError(
            f"the password has {len(text)} characters, and {MIN_CHARS} are needed",
            next_step="use a sentence, or let a password manager make one",
        )
    if len(text) > MAX_CHARS:
        raise BadPasswordError(f"the password is longer than {MAX_CHARS} characters", next_step="use a shorter one")
    if points(text, name) < MIN_POINTS:
        raise BadPasswordError(
            "the password is easily guessed: it is made of usual words, rows of keys, repetitions or your name",
            next_step="use more words that do not belong together, or let a password manager make one",
        )


def points(password: str, name: str) -> int:
    """Return how much there is to guess in a password, in points."""
    text = password.casefold()
    repeated = _unit(text)
    extra = 0 if repeated == text else 1
    own = frozenset(part for part in re.split(r"[\W_]+", name.casefold()) if len(part) >= _MIN_PART)
    return extra + _points_of(repeated, _WORDS | own, max(_LONGEST, *map(len, own), 0))


def _unit(text: str) -> str:
    """Return the shortest piece that a text is a repetition of, else the text."""
    at = (text + text).find(text, 1)
    return text[:at]


def _points_of(text: str, words: frozenset[str], longest: int) -> int:
    found, at, others = 0, 0, set[str]()
    looks = text.translate(_LOOKS)
    while at < len(text):
        taken = _taken(text, looks, at, words, longest)
        if taken:
            found += 1
            at += taken
        else:
            others.add(text[at])
            at += 1
    return found + len(others)


def _taken(text: str, looks: str, at: int, words: frozenset[str], longest: int) -> int:
    """Return how many characters from a place on are one thing that everybody tries, 0: none."""
    most = _run(text, at)
    for length in range(min(longest, len(text) - at), 0, -1):
        if length <= most:
            break
        if length >= _MIN_PART and (looks[at : at + length] in words or text[at : at + length] in words):
            return length
    year = _YEAR.match(text, at)
    return max(most, 4 if year else 0)


def _run(text: str, at: int) -> int:
    """Return how long the run from a place on is (same character, next or previous one, a row of the keyboard), 0 for a short one."""
    best = 0
    for step in (0, 1, -1):
        end = at + 1
        while end < len(text) and ord(text[end]) - ord(text[end - 1]) == step:
            end += 1
        best = max(best, end - at)
    for row in _ROWS:
        for way in (row, row[::-1]):
            start = way.find(text[at])
            length = 0
            while (
                start >= 0 and start + length < len(way) and way[start + length] == text[at + length : at + length + 1]
            ):
                length += 1
            best = max(best, length)
    return best if best >= _MIN_RUN else 0
