"""One captured record by its trace: found, opened with the capture key, and made into the inputs of its model.

Only what the privacy policy keeps is used. A column that it drops or hashes is named as missing; a whole input that is missing, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from struct import pack
from typing import Any, Final

from edgefleet_cli.core import api
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.datasets.model import Array, Record, ReleaseFacts, Sample, Value
from edgefleet_cli.datasets.policy_check import numbers, tensor
from edgefleet_cli.datasets.samples import samples_of
from edgefleet_cli.explanation.errors import NotCapturedError, NotExplainableError, OtherKeyError
from edgefleet_protocol.hpke import key_id, public_of
from edgefleet_protocol.manifest import TensorSpec

_FLOAT: Final = "<f4"


@dataclass(frozen=True)
class Inputs:
    """A sample as its model takes it. arrays: by input, first axis = 1 sample; missing: columns by input, () for a whole input.

    outputs: what the device answered, where the policy keeps it.
    """

    arrays: Mapping[str, Array]
    missing: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)


def find_record(client: ApiClient, device: str, trace: str, private_key: bytes) -> dict[str, Any]:
    """Return the newest sealed record of a trace. Raises NotCapturedError, OtherKeyError, ApiError."""
    base = f"/devices/{part(device)}/captures"
    held = [one.raw for one in client.each(base, api.capture.Capture)]
    mine = [one for one in held if one.get("trace_id") == trace]
    if not mine:
        raise NotCapturedError(
            f"there is no captured record of the trace {trace[:64]!r} of {device}",
            why=f"the server holds {len(held)} records of that device, none of this trace; a device captures some of its answers only",
            next_step=f"fetch what it holds: edgectl device capture {device}; it lists the traces that can be explained",
        )
    newest = max(mine, key=lambda one: str(one.get("taken_at")))
    own = key_id(public_of(private_key))
    if str(newest.get("key", own)) != own:
        raise OtherKeyError(
            f"the record of {trace[:64]} does not open with this key",
            why=f"it is sealed to the key {newest.get('key')}, and this file is {own}",
            next_step="give the private key of `edgectl capture-key show`, or the one before it",
        )
    if newest.get("sealed"):
        return newest
    return client.get(f"{base}/{part(str(newest['id']))}", api.capture.SealedCapture).raw


def inputs_of(record: Record) -> tuple[Sample, Inputs]:
    """Return the first sample of a record, and the inputs that it makes. Raises NotExplainableError where nothing of it is kept."""
    samples = samples_of([record], {}).items
    if not samples:
        raise NotExplainableError(
            f"nothing of the record {record.id} is kept",
            why="the privacy policy of its release keeps none of its fields, or the server has its bundle no more",
            next_step="docs/operate/privacy.md says how a policy keeps a field",
        )
    sample, facts = samples[0], record.facts
    arrays: dict[str, Array] = {}
    missing: dict[str, Sequence[int]] = {}
    for name, spec in facts.inputs.items():
        columns = facts.recipes.get(name, {}).get("columns", [])
        whole = sample.values.get(name)
        if isinstance(whole, Array):
            arrays[name] = Array(whole.dtype, (1, *whole.shape), whole.data)
        elif columns:
            arrays[name], missing[name] = _table([sample.values.get(str(one)) for one in columns], spec)
        else:
            arrays[name], missing[name] = _nothing(spec), ()
    gone = {name: columns for name, columns in missing.items() if columns or name not in _tables(facts)}
    if all(name in gone and len(gone[name]) in (0, _width(facts, name)) for name in facts.inputs):
        raise NotExplainableError(
            f"no number of the record {record.id} is kept",
            why="the privacy policy of its release drops or hashes every field",
            next_step="docs/operate/privacy.md says how a policy keeps a field",
        )
    return sample, Inputs(arrays, gone, _answers(record, len(samples)))


def _tables(facts: ReleaseFacts) -> frozenset[str]:
    return frozenset(facts.columns.values())


def _width(facts: ReleaseFacts, name: str) -> int:
    return len(facts.recipes.get(name, {}).get("columns", []))


def _table(columns: Sequence[Value | None], spec: TensorSpec) -> tuple[Array, list[int]]:
    """Return a table made of its columns, zeros where one is missing, and the numbers of those."""
    kept = [one if isinstance(one, Array) else None for one in columns]
    missing = [at for at, one in enumerate(kept) if one is None]
    shape = next((one.shape for one in kept if one is not None), ())
    if any(one is not None and one.shape != shape for one in kept):
        return _nothing(spec), list(range(len(columns)))
    n = prod(shape)
    values = [numbers(one) if one is not None else (0.0,) * n for one in kept]
    flat = [float(column[at]) for at in range(n) for column in values]
    return Array(_FLOAT, (1, *shape, len(columns)), pack(f"<{len(flat)}f", *flat)), missing


def _nothing(spec: TensorSpec) -> Array:
    """Return zeros in the place of an input that is not kept."""
    sides = [one if isinstance(one, int) else 1 for one in spec.shape]
    is_batched = bool(spec.shape) and (isinstance(spec.shape[0], str) or spec.shape[0] == 1)
    shape = (1, *(sides[1:] if is_batched else sides))
    return Array(_FLOAT, shape, bytes(4 * prod(shape)))


def _answers(record: Record, samples: int) -> dict[str, Array]:
    """Return what the device answered to the first sample of a record."""
    if not record.facts.policy.outputs:
        return {}
    found = {name: array for name, raw in record.outputs.items() if (array := tensor(raw)) is not None}
    return {
        name: Array(one.dtype, (1, *one.shape[1:]), one.data[: len(one.data) // samples])
        for name, one in found.items()
        if one.shape and one.shape[0] == samples
    }
