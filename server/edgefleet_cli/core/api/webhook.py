"""The API: webhooks and their deliveries. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class Attempt(Struct, frozen=True):
    answer: str = ""
    at: str = ""
    error: str = ""
    status: int | None = None
    took_ms: int = 0


class Delivery(Struct, frozen=True):
    attempts: tuple[Attempt, ...] = ()
    attempts_made: int = 0
    created_at: str = ""
    error: str = ""
    id: int = 0
    message_id: str = ""
    next_at: str | None = None
    state: str = ""
    status: int | None = None
    type: str = ""
    webhook: str = ""


class Secret(Struct, frozen=True):
    created_at: str = ""
    expires_at: str | None = None


class Webhook(Struct, frozen=True):
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
    secret: str = ""
    webhook: Webhook = Webhook()


class RotateIn(Body, frozen=True, kw_only=True):
    overlap_s: int | Unset = UNSET


class WebhookIn(Body, frozen=True, kw_only=True):
    name: str | Unset = UNSET
    types: tuple[str, ...] | Unset = UNSET
    url: str
