"""What the engine of a server does: the steps of its ticks, webhooks, and the head of the audit trail."""

import random

from edgefleet_server.alerting.contact_points import service as contact_points
from edgefleet_server.composition.container import Parts
from edgefleet_server.process.lifecycle.engine_thread import EngineThread, EngineWork
from edgefleet_server.rollout.controller.controller import RolloutController
from edgefleet_server.webhook.engine import Draw, WebhookSender
from edgefleet_terms.audit_chain.audit_head import head_bytes


def build_engine(parts: Parts) -> EngineThread:
    """Return the engine thread of these parts, not yet started."""
    fleet = parts.fleet
    rollouts = RolloutController(parts.db, fleet, parts.rollout, parts.rollout.clock, parts.settings.instance)
    rollouts.on_lag(parts.metrics.observe_lag)
    work = EngineWork(
        before=(
            ("re-sign metadata", lambda _now: parts.signing.resign_due()),
            ("re-sign desired documents", fleet.desired.resign_due),
            ("re-sign the brake", fleet.hold.resign_due),
            ("let ended protection rules go", fleet.protection.end_due),
            ("re-sign for a new key", lambda _now: fleet.desired.resign_for_key()),
            ("recover metadata", fleet.recovery.step),
            ("tell devices of a move", lambda _now: fleet.moves.step()),
            ("rotate the device CA", lambda _now: fleet.ca_rotations.step()),
            ("sample the fleet", parts.sampler.tick),
            ("look at the fleet for objectives", parts.objectives.tick),
            ("evaluate the rules of alerts", parts.alarm.engine.tick),
            ("retrain models", parts.retraining.engine.tick),
            ("pack prediction logs", parts.predictions.tick),
            ("send labels to devices", parts.truth.uploads.advance),
            ("publish the head of the audit trail", lambda _now: publish_audit_head(parts)),
        ),
        hourly=(
            ("prune telemetry", parts.telemetry.prune),
            ("let prediction logs go", parts.predictions.prune),
            ("prune labels", parts.truth.uploads.prune),
            ("go on with erasures", parts.erasures.tick),
            ("prune events", lambda now: (fleet.feed.prune(now), fleet.tasks.prune(now), fleet.approvals.prune(now))),
            ("prune readmissions", fleet.readmissions.prune),
            ("prune words about metadata", fleet.recovery.prune),
            ("prune webhook deliveries", lambda _now: parts.webhooks.prune()),
            ("prune samples of objectives", parts.objectives.prune),
            ("prune counts of bytes", parts.costing.book.prune),
            ("prune presence", lambda now: (parts.sampler.prune(now), fleet.presence.prune(now))),
            ("prune alerts", lambda now: (parts.alerts.prune(), parts.alarm.engine.prune(now))),
            ("read the audit trail again", lambda _now: parts.access.chain.read_again()),
            ("prune kept answers", lambda _now: parts.access.repeats.prune()),
            ("sign what was withdrawn", lambda _now: parts.retirement.sign_earlier()),
            ("remove bytes of deleted releases", lambda _now: parts.registry.withdrawals.drop_left()),
        ),
    )
    news = (fleet.receiver.news.subscribe, parts.rollout.on_change)
    return EngineThread(rollouts, work, news, parts.metrics.ticks, parts.clock, parts.settings.engine_tick_s)


def publish_audit_head(parts: Parts) -> None:
    """Make a head of the audit trail when one is due, and let TUF name it. Raises BrokenTrailError, KeysMissingError."""
    head = parts.access.chain.make_head() if parts.access.chain.is_due() else None
    if head is not None:
        parts.signing.publish_audit_head(head_bytes(head), head.size)


def build_webhook_sender(parts: Parts, owner: str, *, draw: Draw = random.random) -> WebhookSender:
    """Return what sends the webhooks of these parts, not yet started. draw: 0 to 1, for the back-off."""
    return WebhookSender(
        parts.db,
        parts.fleet.feed,
        parts.webhooks,
        parts.poster,
        owner,
        shared=parts.shared,
        own=parts.clock,
        timeout_s=parts.settings.webhook_timeout_s,
        draw=draw,
        transports={contact_points.TRANSPORT: parts.alarm.contacts.post},
    )
