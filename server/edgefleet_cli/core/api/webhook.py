"""Answers of the API: webhooks and their deliveries.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct


class Attempt(Struct, frozen=True):
    """One try: status None when no HTTP answer came; error says why, answer is the beginning of the body."""

    answer: str = ""
    at: str = ""
    error: str = ""
    status: int | None = None
    took_ms: int = 0


class Delivery(Struct, frozen=True):
    """One event on its way to one webhook. message_id: `webhook-id` of every try. attempts_made counts all, attempts has the last."""

    attempts: tuple[Attempt, ...] = ()
    attempts_made: int = 0
    created_at: str = ""
    done_at: str | None = None
    error: str = ""
    event: int | None = None
    give_up_at: str = ""
    id: int = 0
    message_id: str = ""
    next_at: str | None = None
    state: str = ""
    status: int | None = None
    type: str = ""
    webhook: str = ""


class Secret(Struct, frozen=True):
    """When a secret was made, and when it stops to sign (None: it stays)."""

    created_at: str = ""
    expires_at: str | None = None


class Webhook(Struct, frozen=True):
    """A webhook as it is shown: all but its secrets. types: patterns, empty = every event."""

    created_at: str = ""
    created_by: str = ""
    dead: int = 0
    disabled_reason: str = ""
    held_until: str | None = None
    id: str = ""
    is_enabled: bool = False
    name: str = ""
    pending: int = 0
    secrets: tuple[Secret, ...] = ()
    types: tuple[str, ...] = ()
    url: str = ""


class NewSecret(Struct, frozen=True):
    """A webhook and its new secret: `secret` is in this answer and nowhere else."""

    secret: str = ""
    webhook: Webhook = Webhook()
