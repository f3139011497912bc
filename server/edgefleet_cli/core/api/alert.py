"""The API: alerts, objectives, their rules, silences, contact points and receivers. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class AckIn(Body, frozen=True, kw_only=True):
    comment: str | Unset = UNSET


class Alert(Struct, frozen=True):
    ack_comment: str = ""
    acked_at: str | None = None
    acked_by: str = ""
    devices: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    id: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    next_step: str = ""
    resolved_at: str | None = None
    rule: str = ""
    severity: str = ""
    shown: str = ""
    since: str = ""
    state: str = ""
    subject: str = ""
    summary: str = ""
    suppressed_by: str = ""
    threshold: float = 0.0
    title: str = ""
    unit: str = ""
    value: float = 0.0


class BudgetPoint(Struct, frozen=True):
    at: str = ""
    good: int = 0
    left: float | None = None
    total: int = 0


class Burn(Struct, frozen=True):
    bad: int = 0
    factor: float = 0.0
    long_burn: float | None = None
    long_s: int = 0
    short_burn: float | None = None
    short_s: int = 0
    state: str = ""
    total: int = 0


class ContactChangeIn(Body, frozen=True, kw_only=True):
    name: str | Unset | None = UNSET
    repeat_s: int | Unset | None = UNSET
    selector: str | Unset | None = UNSET
    sends_resolved: bool | Unset | None = UNSET
    severity: str | Unset | None = UNSET
    url: str | Unset | None = UNSET


class ContactDelivery(Struct, frozen=True):
    attempts_made: int = 0
    created_at: str = ""
    error: str = ""
    id: int = 0
    next_at: str | None = None
    state: str = ""
    subject: str = ""


class ContactIn(Body, frozen=True, kw_only=True):
    name: str
    repeat_s: int | Unset = UNSET
    selector: str | Unset = UNSET
    sends_resolved: bool | Unset = UNSET
    severity: str | Unset = UNSET
    url: str


class Contact(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    dead: int = 0
    id: str = ""
    name: str = ""
    pending: int = 0
    repeat_s: int = 0
    selector: str = ""
    sends_resolved: bool = False
    service: str = ""
    severity: str = ""
    shown: str = ""


class MaintenanceWindowIn(Body, frozen=True, kw_only=True):
    cron: str
    duration_s: int
    name: str
    selector: str | Unset = UNSET
    tz: str | Unset = UNSET


class MaintenanceWindow(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    cron: str = ""
    duration_s: int = 0
    id: str = ""
    is_open: bool = False
    name: str = ""
    selector: str = ""
    tz: str = ""
    until: str | None = None


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


class RuleChangeIn(Body, frozen=True, kw_only=True):
    for_s: int | Unset | None = UNSET
    is_enabled: bool | Unset | None = UNSET
    selector: str | Unset | None = UNSET
    severity: str | Unset | None = UNSET
    threshold: float | Unset | None = UNSET


class Rule(Struct, frozen=True):
    changed_at: str | None = None
    changed_by: str = ""
    default: float = 0.0
    description: str = ""
    firing: int = 0
    for_s: int = 0
    is_enabled: bool = False
    name: str = ""
    next_step: str = ""
    selector: str = ""
    severity: str = ""
    source: str = ""
    threshold: float = 0.0
    title: str = ""
    unit: str = ""


class SilenceIn(Body, frozen=True, kw_only=True):
    comment: str | Unset = UNSET
    for_s: int | Unset | None = UNSET
    matchers: tuple[str, ...] | Unset = UNSET
    selector: str | Unset | None = UNSET
    until: str | Unset | None = UNSET


class Silence(Struct, frozen=True):
    alerts: int = 0
    comment: str = ""
    created_at: str = ""
    created_by: str = ""
    id: str = ""
    is_over: bool = False
    matchers: tuple[str, ...] = ()
    selector: str = ""
    until: str = ""


class Slo(Struct, frozen=True):
    burns: tuple[Burn, ...] = ()
    changed_at: str = ""
    changed_by: str = ""
    counted_at: float | None = None
    created_at: str = ""
    created_by: str = ""
    description: str = ""
    good: int = 0
    indicator: str = ""
    left: float | None = None
    model: str = ""
    name: str = ""
    says: str = ""
    since: str | None = None
    state: str = ""
    threshold: float | None = None
    title: str = ""
    total: int = 0


class SloDetail(Struct, frozen=True):
    document: dict[str, Any] = field(default_factory=dict)
    history: tuple[BudgetPoint, ...] = ()
    slo: Slo = Slo()
