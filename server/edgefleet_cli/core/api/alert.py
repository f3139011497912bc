"""Answers of the API: receivers of alerts.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from msgspec import Struct


class Receiver(Struct, frozen=True):
    """An alert receiver as it is shown: all but its token. model: whose rollouts alerts without a rollout's name are about."""

    action: str = ""
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    last_used_at: str | None = None
    matchers: tuple[str, ...] = ()
    model: str = ""
    name: str = ""


class NewReceiver(Struct, frozen=True):
    """A receiver and the path of its URL, whose last part is the token: in this answer and nowhere else."""

    receiver: Receiver = Receiver()
    url_path: str = ""
