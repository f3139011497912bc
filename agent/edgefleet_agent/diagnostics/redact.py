"""Takes secrets out of text that leaves the device. Pure; run over everything that `logs` and `diag` give out.

1. Private keys (PEM), claim tokens, operator tokens, bearer tokens and JWTs, passwords in addresses, values of telling names.
2. Rather too much than too little, but digests (64 hex digits) stay: they are what one looks for.
"""

import re
from typing import Any

GONE = "[redacted]"

_TELLING = r"(?:[a-z0-9_-]*(?:password|passwd|secret|private_key|api_key|apikey|authorization|credential)[a-z0-9_-]*|token|key_pem)"
_RULES = (
    (
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-{5}.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-{5}|\Z)", re.DOTALL),
        GONE,
    ),
    (re.compile(r"\befc1\.[A-Za-z0-9_=-]{4,}"), f"efc1.{GONE}"),
    (re.compile(r"\bedg_[a-z0-9]+_[A-Za-z0-9_-]+"), f"edg_{GONE}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?"), GONE),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {GONE}"),
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), f"://{GONE}@"),
    (re.compile(rf"""(["']?\b{_TELLING}\b["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;}}]+)""", re.IGNORECASE), rf"\1{GONE}"),
)
_TELLING_NAME = re.compile(_TELLING, re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text without what looks like a secret."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


def redact_value(value: Any, name: str = "") -> Any:
    """Return plain data (dicts, lists, texts, numbers) without secrets: by the names of its fields, and in its texts."""
    if isinstance(value, dict):
        return {key: redact_value(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item, name) for item in value]
    if isinstance(value, str | bytes) and value and _TELLING_NAME.fullmatch(name):
        return GONE
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return redact(value) if isinstance(value, str) else value
