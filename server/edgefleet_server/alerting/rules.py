"""Which alert is about which rollout. Pure.

- A label `edgefleet_rollout` names a rollout by id or by name. Without it the receiver's matchers must all hold (a receiver without
  matchers takes labelled alerts only), and the alert is about the open rollouts of the receiver's model, else of its label `model`.
- Matchers are Alertmanager's: a regular expression matches the whole value, a label that is not there is empty.
Source: Prometheus, "Alerting: configuration", webhook_config, and matchers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_server.alerting.errors import BadMatcherError, BadPayloadError
from edgefleet_server.alerting.model import Alert, Matcher, Notification

VERSION: Final = "4"
ROLLOUT_LABEL: Final = "edgefleet_rollout"
MODEL_LABEL: Final = "model"
MAX_ALERTS: Final = 1000
MAX_MATCHERS: Final = 20
_MATCHER: Final = re.compile(
    r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^"\s=~!][^"\s]*|))\s*'
)
_ESCAPE: Final = re.compile(r"\\(.)")


def parse_matcher(text: str) -> Matcher:
    """Return a matcher such as `severity="critical"` or `alertname=~"Edge.*"`. Raises BadMatcherError."""
    found = _MATCHER.fullmatch(text) if len(text) <= 500 else None
    if found is None:
        raise BadMatcherError(
            f"{text[:80]!r} is not a matcher", next_step='write LABEL="value", or with != =~ !~, as in Alertmanager'
        )
    label, op, quoted, bare = found.groups()
    value = _ESCAPE.sub(r"\1", quoted) if quoted is not None else bare
    if op in ("=~", "!~"):
        try:
            re.compile(value)
        except re.error as error:
            raise BadMatcherError(
                f"{value[:80]!r} is not a regular expression: {error}", next_step="correct it, or use = and !="
            ) from error
    return Matcher(label, op, value)


def is_matched(labels: Mapping[str, str], matchers: Sequence[Matcher]) -> bool:
    """Return whether all matchers hold; without any nothing is matched."""
    return bool(matchers) and all(_holds(labels.get(one.label, ""), one) for one in matchers)


def _holds(value: str, matcher: Matcher) -> bool:
    match matcher.op:
        case "=":
            return value == matcher.value
        case "!=":
            return value != matcher.value
        case "=~":
            return re.fullmatch(matcher.value, value) is not None
        case _:
            return re.fullmatch(matcher.value, value) is None


def parse_notification(body: Any) -> Notification:
    """Return what a request's JSON says. Raises BadPayloadError."""
    if not isinstance(body, dict):
        raise _bad("expected a JSON object")
    if body.get("version") != VERSION:
        raise _bad(f'expected "version": "{VERSION}", got {str(body.get("version"))[:20]!r}')
    group_key, alerts = body.get("groupKey"), body.get("alerts")
    if not isinstance(group_key, str) or not group_key:
        raise _bad("`groupKey` is missing")
    if not isinstance(alerts, list) or len(alerts) > MAX_ALERTS:
        raise _bad(f"`alerts` is not a list of at most {MAX_ALERTS}")
    return Notification(group_key, tuple(_alert(one) for one in alerts))


def _alert(plain: Any) -> Alert:
    if not isinstance(plain, dict):
        raise _bad("an alert is not an object")
    labels, status = _texts(plain.get("labels"), "labels"), plain.get("status")
    fingerprint, starts_at = plain.get("fingerprint"), plain.get("startsAt")
    if status not in ("firing", "resolved"):
        raise _bad("the `status` of an alert is neither firing nor resolved")
    if not isinstance(fingerprint, str) or not fingerprint or len(fingerprint) > 64:
        raise _bad("the `fingerprint` of an alert is missing")
    if not isinstance(starts_at, str) or len(starts_at) > 64:
        raise _bad("the `startsAt` of an alert is missing")
    return Alert(
        status == "firing", labels, _texts(plain.get("annotations") or {}, "annotations"), starts_at, fingerprint
    )


def _texts(plain: Any, what: str) -> dict[str, str]:
    if not isinstance(plain, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in plain.items()):
        raise _bad(f"the `{what}` of an alert are not an object of texts")
    return dict(plain)


def _bad(why: str) -> BadPayloadError:
    return BadPayloadError(
        f"this is no notification of Alertmanager: {why}",
        next_step="point a `webhook_configs` entry of Alertmanager here",
    )


def reason_of(alert: Alert) -> str:
    """Return the reason that a rollout is given."""
    summary = f": {alert.summary}" if alert.summary else ""
    return f"alert {alert.name} is firing{summary}"[:400].replace("\0", "")
