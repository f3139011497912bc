"""`edgectl rollout strategy`: the named strategies, and the spec that one stands for."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Document
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

STRATEGIES: Sheet[api.rollout.Strategy] = Sheet(
    "strategies",
    [
        Column("strategy", lambda s: text(s.name), keep=True),
        Column("stages", lambda s: ", ".join(text(stage.get("name")) for stage in _stages(s))),
        Column("about", lambda s: text(s.about)),
    ],
    lambda s: text(s.name),
)


def show(session: Session, name: str | None) -> None:
    """Write all strategies, or one of them as the document that it stands for."""
    if name is None:
        session.out.items(session.api.page("/rollout-strategies", api.rollout.Strategy), STRATEGIES)
        return
    one = session.api.get(f"/rollout-strategies/{part(name)}", api.rollout.Strategy).value
    session.out.document(one.spec, lambda: _print(session, one.spec))
    session.out.note(f"{text(one.about)}; put in release and selector, then `edgectl rollout create -f FILE`")


def _print(session: Session, spec: Document) -> None:
    import yaml

    session.out.line(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True).rstrip())


def _stages(strategy: api.rollout.Strategy) -> list[dict[str, Any]]:
    inner = strategy.spec.get("spec")
    return inner.get("stages") or [] if isinstance(inner, dict) else []
