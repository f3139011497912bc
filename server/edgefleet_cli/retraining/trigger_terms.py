"""What a trigger says, as flags: `trigger create` and `trigger change` share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import read_text
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.structs import UNSET

Objective = Annotated[
    str | None, typer.Option("--objective", metavar="SLO", help="Only this objective.", autocompletion=completion.slos)
]
Schedule = Annotated[str | None, typer.Option("--schedule", metavar="CRON", help="When, e.g. '0 3 * * 1'.")]
Zone = Annotated[str | None, typer.Option("--tz", metavar="ZONE", help="Time zone of the schedule; default: UTC.")]
Lasting = Annotated[str | None, typer.Option("--lasting", metavar="TIME", help="How long the cause must be there.")]
CoolDown = Annotated[
    str | None, typer.Option("--cool-down", metavar="TIME", help="Least time between two; default: 1d.")
]
Budget = Annotated[int | None, typer.Option("--budget", min=0, max=100, help="Most in a period; default: 4.")]
Period = Annotated[str | None, typer.Option("--per", metavar="TIME", help="The period of the budget; default: 30d.")]
Approval = Annotated[
    bool | None, typer.Option("--approval/--no-approval", help="A second person agrees first; default: yes.")
]
LauncherKind = Annotated[
    str | None, typer.Option("--launcher", metavar="KIND", help="runner, github, gitlab, mlflow or webhook.")
]
Settings = Annotated[list[str] | None, typer.Option("--setting", metavar="NAME=V", help="Of the launcher; repeatable.")]
SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", metavar="F", help="File with the secret of the launcher.")
]
Deadline = Annotated[str | None, typer.Option("--deadline", metavar="TIME", help="How long it may train; default: 6h.")]
Most = Annotated[int | None, typer.Option("--most", min=1, max=10_000, help="Most records; default: 1000.")]
Devices = Annotated[int | None, typer.Option("--devices", min=1, max=200, help="Most devices asked; default: 20.")]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", metavar="R", help="Only records captured for it; repeatable.")
]
Collecting = Annotated[
    str | None, typer.Option("--collect-for", metavar="TIME", help="How long records are waited for; default: 10m.")
]
Rollout = Annotated[
    Path | None,
    typer.Option("--rollout", metavar="F", help="Rollout spec without a release; without it: only publish."),
]


@dataclass(frozen=True, kw_only=True)
class TriggerTerms:
    """The flags that say what a trigger does, as they were given; None: not given."""

    objective: Objective = None
    schedule: Schedule = None
    tz: Zone = None
    lasting: Lasting = None
    cool_down: CoolDown = None
    budget: Budget = None
    period: Period = None
    approval: Approval = None
    launcher: LauncherKind = None
    setting: Settings = None
    secret_file: SecretFile = None
    deadline: Deadline = None
    most: Most = None
    devices: Devices = None
    reason: Reasons = None
    collect_for: Collecting = None
    rollout: Rollout = None

    def fields(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was given as fields of a body; of `launcher` and `data` the rest stays as known.

        known: the trigger as the server has it, {} for a new one. Raises UsageError.
        """
        return {
            "objective": _given(self.objective),
            "schedule": _given(self.schedule),
            "tz": _given(self.tz),
            "lasting_s": _seconds(self.lasting),
            "cool_down_s": _seconds(self.cool_down),
            "budget": _given(self.budget),
            "budget_period_s": _seconds(self.period),
            "approval": _given(self.approval),
            "launcher": self._launcher(known.get("launcher") or {}),
            "data": self._data(known.get("data") or {}),
            "rollout": UNSET if self.rollout is None else _rollout(self.rollout),
        }

    def _data(self, known: Mapping[str, Any]) -> Any:
        given = {
            "most": self.most,
            "devices": self.devices,
            "reasons": None if self.reason is None else tuple(self.reason),
            "wait_s": None if self.collect_for is None else int(parse_duration_s(self.collect_for)),
        }
        if all(value is None for value in given.values()):
            return UNSET
        merged = {**known, **{name: value for name, value in given.items() if value is not None}}
        return api.experiment.CollectIn(**{name: merged[name] for name in given if name in merged})

    def _launcher(self, known: Mapping[str, Any]) -> Any:
        if all(one is None for one in (self.launcher, self.setting, self.secret_file, self.deadline)):
            return UNSET
        pairs = dict(_pair(one) for one in self.setting or ())
        is_same = self.launcher is None or self.launcher == known.get("kind")
        return api.experiment.LauncherIn(
            kind=self.launcher or known.get("kind", "runner"),
            settings={**(known.get("settings") or {} if is_same else {}), **pairs},
            secret=UNSET if self.secret_file is None else read_text(self.secret_file, 4001).strip(),
            deadline_s=int(parse_duration_s(self.deadline)) if self.deadline else known.get("deadline_s", UNSET),
        )


def _given(value: Any) -> Any:
    return UNSET if value is None else value


def _seconds(given: str | None) -> Any:
    return UNSET if given is None else int(parse_duration_s(given))


def _pair(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise UsageError(
            f"{given!r} is not NAME=VALUE", why="a launcher's settings have names", next_step="for example ref=main"
        )
    return name, value


def _rollout(file: Path) -> dict[str, Any]:
    from edgefleet_cli.rollout.spec import read_document

    return dict(read_document(str(file)))
