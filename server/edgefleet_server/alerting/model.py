"""Values of alert receivers. Actions and outcomes are stored and public: never renamed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AlertAction(StrEnum):
    """What a firing alert does to the rollout that it is about."""

    PAUSE = "pause"
    ROLLBACK = "rollback"


class AlertOutcome(StrEnum):
    """What became of one alert of a notification."""

    ACTED = "acted"
    SEEN = "seen"
    RESOLVED = "resolved"
    NOT_OURS = "not_ours"
    NO_ROLLOUT = "no_rollout"
    NOT_POSSIBLE = "not_possible"


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label, as Alertmanager writes it: `=`, `!=`, `=~` or `!~`. A label that is not there is ""."""

    label: str
    op: str
    value: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification."""

    is_firing: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: str
    fingerprint: str

    @property
    def name(self) -> str:
        """Its `alertname`."""
        return self.labels.get("alertname") or "an alert without a name"

    @property
    def summary(self) -> str:
        """What it says of itself: summary, else description."""
        return self.annotations.get("summary") or self.annotations.get("description") or ""


@dataclass(frozen=True, slots=True)
class Notification:
    """What Alertmanager sends in one request."""

    group_key: str
    alerts: tuple[Alert, ...]


@dataclass(frozen=True)
class ReceiverView:
    """An alert receiver as it is shown: all but its token. model: whose rollouts alerts without a rollout's name are about."""

    id: str
    name: str
    action: str
    matchers: Sequence[str]
    model: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None


@dataclass(frozen=True)
class NewReceiver:
    """A receiver just made; url_path has its token and is shown this once."""

    receiver: ReceiverView
    url_path: str


@dataclass(frozen=True)
class AlertResult:
    """What was done about one alert. rollout: the id of the one that it was about, "" for none."""

    alert: str
    fingerprint: str
    outcome: AlertOutcome
    rollout: str
    reason: str


@dataclass(frozen=True)
class AlertDeed:
    """What one alert did to one rollout, or tried to. starts_at: when it began to fire, as its system writes it."""

    at: datetime
    receiver: str
    rollout: str
    outcome: str
    reason: str
    starts_at: str
    fingerprint: str
