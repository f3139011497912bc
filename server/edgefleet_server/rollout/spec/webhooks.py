"""Reads `webhook` of a stage, and writes it back in normal form.

Pure. Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, PlainValidator, TypeAdapter

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.outbound.address_policy import parse_target
from edgefleet_server.rollout.spec.fields import (
    NAME,
    Advice,
    Item,
    Items,
    Maybe,
    Part,
    Read,
    duration,
    is_whole,
    named,
    stop_at,
    text,
)
from edgefleet_server.rollout.spec.model import (
    DEFAULT_EVERY,
    DEFAULT_TIMEOUT,
    ELSEWHERE,
    GateKind,
    WebhookGate,
    duration_text,
)

MAX_GATES: Final = 8

MAX_TIMEOUT: Final = timedelta(seconds=20)


def _kind(value: Any) -> Any:
    if isinstance(value, str) and value in ELSEWHERE:
        raise ValueError(f"{value} is no gate; {ELSEWHERE[value]}")
    return value


def _url(value: Any) -> str:
    url = text(value)
    if url:
        try:
            parse_target(url)
        except EdgefleetError as error:
            raise ValueError(error.message) from error
    return url


def _timeout(value: timedelta) -> timedelta:
    if value > MAX_TIMEOUT:
        raise ValueError(f"expected at most {duration_text(MAX_TIMEOUT)}, got {duration_text(value)}")
    return value


class StageWebhookIn(Part):
    """A program that a stage asks."""

    name: Maybe[Annotated[str, named(NAME)]] = None
    kind: Annotated[
        GateKind, BeforeValidator(_kind), Advice(f"write one of {', '.join(kind.value for kind in GateKind)}")
    ]
    url: Annotated[
        str,
        Read(_url, {"type": "string", "format": "uri"}),
        Advice("say where the gate is asked, for example https://host.example/gate"),
    ]
    every: Annotated[timedelta, duration(positive=True)] = DEFAULT_EVERY
    timeout: Annotated[timedelta, duration(positive=True), AfterValidator(_timeout)] = DEFAULT_TIMEOUT

    def gate(self, index: int) -> WebhookGate:
        """Return the gate; index: which of its stage's it is."""
        return WebhookGate(self.name or f"{self.kind.value}-{index + 1}", self.kind, self.url, self.every, self.timeout)


Many = Annotated[list[Item[StageWebhookIn]], Items("gates", most=MAX_GATES)]
_MANY: Final = TypeAdapter[list[StageWebhookIn]](Many)


def _one_or_many(value: Any) -> list[StageWebhookIn]:
    """Return the gates that a stage's field `webhook` writes: one object, or a list of them."""
    found = [StageWebhookIn.model_validate(value)] if isinstance(value, dict) else _MANY.validate_python(value)
    names = [one.gate(index).name for index, one in enumerate(found) if is_whole(one)]
    twice = sorted({name for name in names if names.count(name) > 1})
    stop_at(((), f"the name {name!r} is given twice; gates of a stage need different names") for name in twice)
    return found


Webhooks = Annotated[
    list[StageWebhookIn],
    PlainValidator(_one_or_many, json_schema_input_type=StageWebhookIn | Many),
]


def dump_gates(gates: Sequence[WebhookGate]) -> list[dict[str, Any]]:
    """Return gates in normal form."""
    return [
        {
            "name": gate.name,
            "kind": gate.kind.value,
            "url": gate.url,
            "every": duration_text(gate.every),
            "timeout": duration_text(gate.timeout),
        }
        for gate in gates
    ]
