"""Values of alerts. States are stored and public: never renamed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from edgefleet_server.alerting.alert_rules.fleet_facts import Severity


class AlertState(StrEnum):
    """How far an alert is. A pending one whose condition ends is forgotten."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Fired:
    """From when to when an alert of a rule fired. fired_at: None while it is pending; resolved_at: None while it lasts."""

    rule: str
    fired_at: datetime | None
    resolved_at: datetime | None


@dataclass(frozen=True)
class ActiveAlert:
    """One alert of one rule about one subject.

    since: when its condition began. clear_since: when it ended, while the alert waits to be resolved. suppressed_by: what keeps it quiet,
    in words, "" = nothing. id 0: not stored yet.
    """

    rule: str
    subject: str
    shown: str
    state: AlertState
    severity: Severity
    summary: str
    value: float
    threshold: float
    group: str
    since: datetime
    seen_at: datetime
    id: int = 0
    fired_at: datetime | None = None
    clear_since: datetime | None = None
    resolved_at: datetime | None = None
    suppressed_by: str = ""
    acked_at: datetime | None = None
    acked_by: str = ""
    ack_comment: str = ""
    link: str = ""
    evidence: Sequence[str] = ()
    devices: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What there is at most one open alert of."""
        return self.rule, self.subject

    @property
    def matched(self) -> dict[str, str]:
        """The labels that silences match."""
        return {**self.labels, "rule": self.rule, "severity": self.severity.value, "subject": self.subject}


@dataclass(frozen=True)
class AlertView:
    """An alert as it is shown. title, unit, next_step: of its rule. devices: the ids that it is about, at most 200 of them."""

    id: int
    rule: str
    title: str
    subject: str
    shown: str
    state: AlertState
    severity: Severity
    summary: str
    value: float
    threshold: float
    unit: str
    group: str
    since: datetime
    fired_at: datetime | None
    resolved_at: datetime | None
    suppressed_by: str
    acked_at: datetime | None
    acked_by: str
    ack_comment: str
    next_step: str
    link: str
    evidence: Sequence[str]
    devices: Sequence[str]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class RuleSetting:
    """What is in force of a rule, defaults included. changed_at, changed_by: of the last change, None and "" without one."""

    rule: str
    is_enabled: bool
    threshold: float
    for_s: int
    severity: Severity
    selector: str
    changed_at: datetime | None = None
    changed_by: str = ""


@dataclass(frozen=True)
class RuleView:
    """A rule as it is shown. default: its threshold where nobody changed it; source: where that comes from."""

    name: str
    title: str
    description: str
    is_enabled: bool
    threshold: float
    unit: str
    default: float
    least: float
    most: float
    source: str
    for_s: int
    severity: Severity
    selector: str
    next_step: str
    firing: int
    changed_at: datetime | None
    changed_by: str


@dataclass(frozen=True)
class SilenceView:
    """What keeps matching alerts quiet until a time. matchers: as in Alertmanager, all must hold; selector: of devices."""

    id: str
    matchers: Sequence[str]
    selector: str
    comment: str
    created_at: datetime
    created_by: str
    until: datetime
    is_over: bool
    alerts: int


@dataclass(frozen=True)
class MaintenanceWindowView:
    """A maintenance window: from each start that `cron` names, for `duration_s`, alerts of its devices are suppressed."""

    id: str
    name: str
    cron: str
    duration_s: int
    tz: str
    selector: str
    created_at: datetime
    created_by: str
    is_open: bool
    until: datetime | None


@dataclass(frozen=True)
class AlertCounts:
    """How many alerts are firing, by severity, and how many of all are suppressed or pending."""

    firing: Mapping[str, int]
    suppressed: int
    pending: int

    @property
    def open(self) -> int:
        """Those that fire and are not suppressed."""
        return sum(self.firing.values())


@dataclass(frozen=True)
class AlertCare:
    """Who takes care of what fires and is not suppressed. oldest: since when the first has fired; unseen: nobody acknowledged these."""

    oldest: datetime | None
    unseen: int
