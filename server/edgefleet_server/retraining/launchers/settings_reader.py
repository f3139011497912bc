"""Reads where a launcher sends from the settings of a trigger: texts by name. Pure.

Kind `github`: repository, workflow, ref, api. `gitlab`: project, ref, server. `mlflow`: host and job, of Databricks. `webhook`: url; or
shape `airflow` with url, dag and user. The first three send more texts: `input_NAME`.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.outbound.address_policy import parse_target
from edgefleet_server.retraining.launchers.errors import BadLauncherError
from edgefleet_server.retraining.launchers.model import (
    AirflowDag,
    DatabricksJob,
    GithubWorkflow,
    GitlabPipeline,
    LaunchTarget,
    ReceiverKind,
    Settings,
    WebhookTarget,
)
from edgefleet_server.webhook.rules import SECRET_PREFIX

EXTRA: Final = "input_"
MOST_EXTRAS: Final = 20
"""GitHub takes 25 inputs, of which 4 are ours."""
MOST_EXTRA_BYTES: Final = 4000
"""Of all extras as JSON: Databricks takes 10,000 bytes of parameters in all."""
_SECRET_CHARS: Final = re.compile(r"[\x21-\x7e]{1,1000}")
_LEAST_KEY_BYTES: Final = 24
_OURS: Final = re.compile(r"(?i)retraining|model|parent|message|edgefleet_.*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.ASCII)

    def read(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(what)
        return value

    return read


def _call_url(value: str) -> str:
    try:
        parse_target(value)
    except EdgefleetError as error:
        raise ValueError(f"a URL that can be called: {error.message}") from error
    return value


def _base_url(value: str) -> str:
    if "?" in value:
        raise ValueError("an address such as https://host.example, without a query")
    return _call_url(value).rstrip("/")


_REF: Final = _matching(r"[A-Za-z0-9_][\w./+-]{0,199}", "a branch or tag")


class SettingRule(NamedTuple):
    """How a setting is read; default: what stands for a missing one, None when it has to be there."""

    read: Callable[[str], Any]
    default: str | None = None


@dataclass(frozen=True, slots=True)
class ReceiverRule:
    """The settings of a receiver. extras: the field that its own `input_NAME` settings go to, "" when it takes none."""

    make: Callable[..., Settings]
    settings: Mapping[str, SettingRule]
    extras: str = ""


RECEIVERS: Final[Mapping[ReceiverKind, ReceiverRule]] = {
    ReceiverKind.GITHUB: ReceiverRule(
        GithubWorkflow,
        {
            "repository": SettingRule(
                _matching(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[\w.-]{1,100}", "OWNER/REPOSITORY")
            ),
            "workflow": SettingRule(
                _matching(r"[A-Za-z0-9_][\w.-]{0,99}\.ya?ml|[0-9]{1,18}", "the file of a workflow, such as retrain.yml")
            ),
            "ref": SettingRule(_REF, "main"),
            "api": SettingRule(_base_url, "https://api.github.com"),
        },
        "inputs",
    ),
    ReceiverKind.GITLAB: ReceiverRule(
        GitlabPipeline,
        {
            "project": SettingRule(
                _matching(r"[0-9]{1,18}|[A-Za-z0-9_][\w.+-]{0,99}(/[A-Za-z0-9_][\w.+-]{0,99}){1,20}", "a number or GROUP/PROJECT")
            ),
            "ref": SettingRule(_REF, "main"),
            "server": SettingRule(_base_url, "https://gitlab.com"),
        },
        "variables",
    ),
    ReceiverKind.DATABRICKS: ReceiverRule(
        DatabricksJob,
        {
            "host": SettingRule(_base_url),
            "job": SettingRule(lambda value: int(_matching(r"[1-9][0-9]{0,18}", "the number of a job")(value))),
        },
        "parameters",
    ),
    ReceiverKind.AIRFLOW: ReceiverRule(
        AirflowDag,
        {
            "url": SettingRule(_base_url),
            "dag": SettingRule(_matching(r"(?!\.{1,2}$)[\w.-]{1,250}", "the id of a DAG")),
            "user": SettingRule(_matching(r"[^\x00-\x1f\x7f]{0,200}", "a user name"), ""),
        },
    ),
    ReceiverKind.WEBHOOK: ReceiverRule(WebhookTarget, {"url": SettingRule(_call_url)}),
}  # fmt: skip


def read_target(kind: str, settings: Mapping[str, str], secret: str) -> LaunchTarget:
    """Return where a launcher sends. kind: `github`, `gitlab`, `mlflow` or `webhook`. Raises BadLauncherError."""
    receiver = _receiver(kind, settings)
    rule = RECEIVERS[receiver]
    shape = ("shape",) if kind == "webhook" else ()
    for name in settings:
        if name not in rule.settings and name not in shape and not (rule.extras and name.startswith(EXTRA)):
            known = [*rule.settings, *shape, *([f"{EXTRA}NAME"] if rule.extras else [])]
            raise BadLauncherError(
                f"a launcher of kind {kind} has no setting {name[:40]!r}",
                next_step=f"its settings are {', '.join(known)}",
            )
    values = {name: _value(kind, name, one, settings) for name, one in rule.settings.items()}
    if rule.extras:
        values[rule.extras] = _extras(kind, settings)
    _check_secret(kind, receiver, secret)
    return LaunchTarget(receiver, rule.make(**values), secret)


def _receiver(kind: str, settings: Mapping[str, str]) -> ReceiverKind:
    if kind == "mlflow":
        if "job" not in settings:
            raise BadLauncherError(
                "MLflow has no call that starts a project: only Databricks starts a job, by host and job",
                next_step="name both, or use the launcher runner with `edgectl retrain worker MODEL --key FILE -- mlflow run URI`",
            )
        return ReceiverKind.DATABRICKS
    if kind == "webhook":
        shape = settings.get("shape", "event")
        if shape not in ("event", "airflow"):
            raise _bad(kind, "shape", "event or airflow")
        return ReceiverKind.AIRFLOW if shape == "airflow" else ReceiverKind.WEBHOOK
    try:
        return {"github": ReceiverKind.GITHUB, "gitlab": ReceiverKind.GITLAB}[kind]
    except KeyError as error:
        raise BadLauncherError(
            f"there is no launcher of kind {kind[:40]!r}", next_step="use runner, github, gitlab, mlflow or webhook"
        ) from error


def _value(kind: str, name: str, rule: SettingRule, settings: Mapping[str, str]) -> Any:
    value = settings.get(name, rule.default)
    if value is None:
        raise _bad(kind, name, "a value")
    try:
        return rule.read(value)
    except ValueError as error:
        raise _bad(kind, name, str(error)) from error


def _extras(kind: str, settings: Mapping[str, str]) -> dict[str, str]:
    found = {name.removeprefix(EXTRA): text for name, text in settings.items() if name.startswith(EXTRA)}
    for name, text in found.items():
        if _NAME.fullmatch(name) is None or _OURS.fullmatch(name) is not None:
            raise _bad(kind, f"{EXTRA}{name[:40]}", "a name of letters, digits and underscores that is not one of ours")
        if "\0" in text:
            raise _bad(kind, f"{EXTRA}{name}", "a text without a zero character")
    if len(found) > MOST_EXTRAS or len(msgspec.json.encode(found)) > MOST_EXTRA_BYTES:
        raise _bad(kind, EXTRA, f"at most {MOST_EXTRAS} of them, with {MOST_EXTRA_BYTES} bytes in all")
    return found


def _check_secret(kind: str, receiver: ReceiverKind, secret: str) -> None:
    """Raise BadLauncherError for a secret that cannot be sent. No message shows it."""
    if not secret:
        raise BadLauncherError(
            f"a launcher of kind {kind} needs a secret", next_step="give the token or key that its receiver checks"
        )
    if _SECRET_CHARS.fullmatch(secret) is None:
        raise _bad(kind, "secret", "1 to 1000 printable characters without spaces")
    if receiver is ReceiverKind.WEBHOOK and secret.startswith(SECRET_PREFIX):
        try:
            size = len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True))
        except binascii.Error:
            size = 0
        if size < _LEAST_KEY_BYTES:
            raise _bad(kind, "secret", f"{SECRET_PREFIX} and at least {_LEAST_KEY_BYTES} random bytes as base64")


def _bad(kind: str, name: str, expected: str) -> BadLauncherError:
    return BadLauncherError(
        f"the setting {name!r} of a launcher of kind {kind} is wrong: expected {expected}",
        next_step=f"correct {name!r}",
    )
