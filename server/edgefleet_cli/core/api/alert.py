"""The API: receivers of alerts. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class Receiver(Struct, frozen=True):
    action: str = ""
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    last_used_at: str | None = None
    matchers: tuple[str, ...] = ()
    model: str = ""
    name: str = ""


class NewReceiver(Struct, frozen=True):
    receiver: Receiver = Receiver()
    url_path: str = ""


class ReceiverIn(Body, frozen=True, kw_only=True):
    action: str | Unset = UNSET
    matchers: tuple[str, ...] | Unset = UNSET
    model: str | Unset = UNSET
    name: str
