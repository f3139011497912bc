"""Bodies of the webhook routes."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.web.strict_types import Whole
from edgefleet_server.webhook.model import NewSecret, WebhookView


class WebhookIn(BaseModel):
    """A webhook to make. types: of docs/reference/events.md, `edgefleet.rollout.*` for all below one; empty: every event."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=2000)
    name: str = Field(default="", max_length=80)
    types: list[str] = Field(default_factory=list, max_length=100)


class RotateIn(BaseModel):
    """overlap_s: for so many seconds the former secrets go on signing with the new one; 0: they end at once."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: Annotated[int, Whole(0, 90 * 86_400)] = 86_400

    @property
    def overlap(self) -> timedelta:
        """The same as a time."""
        return timedelta(seconds=self.overlap_s)


class NewSecretOut(BaseModel):
    """A webhook and its new secret: `secret` is in this answer and nowhere else."""

    webhook: WebhookView
    secret: str

    @classmethod
    def of(cls, made: NewSecret) -> "NewSecretOut":
        """Return the body."""
        return cls(webhook=made.webhook, secret=made.secret)
