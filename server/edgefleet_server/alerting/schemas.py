"""Bodies of the routes of alert receivers."""

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.alerting.model import AlertAction, AlertResult, NewReceiver, ReceiverView
from edgefleet_server.alerting.rules import MAX_MATCHERS


class ReceiverIn(BaseModel):
    """An alert receiver to make. matchers: as in Alertmanager, all must hold; without any only labelled alerts act."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=60)
    action: AlertAction = AlertAction.PAUSE
    matchers: list[str] = Field(default_factory=list, max_length=MAX_MATCHERS)
    model: str = Field(default="", max_length=63)


class NewReceiverOut(BaseModel):
    """A receiver and the path of its URL, whose last part is the token: in this answer and nowhere else."""

    receiver: ReceiverView
    url_path: str

    @classmethod
    def of(cls, made: NewReceiver) -> "NewReceiverOut":
        """Return the body."""
        return cls(receiver=made.receiver, url_path=made.url_path)


class AlertsOut(BaseModel):
    """What was done about each alert."""

    results: list[AlertResult]
