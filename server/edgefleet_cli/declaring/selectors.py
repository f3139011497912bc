"""Telling whether two selectors are written alike: spaces and `==` mean nothing. Pure; what a selector means, the server knows."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_WORDS = frozenset({"in", "notin"})


def plain_selector(text: str) -> str:
    """Return a selector as the server writes it: `site=berlin,ring in (a,b)`."""
    words = ["=" if word == "==" else word for word in _TOKEN.findall(text)]
    told = ""
    for at, word in enumerate(words):
        is_operator = word in _WORDS and at > 0 and words[at + 1 : at + 2] == ["("]
        told += f" {word} " if is_operator else word
    return told
