"""SHAP values of a model of tables: its inputs laid next to each other as one table, explained by the package `shap` in its environment."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.errors import BadRequestError
from edgefleet_converters.importance.local_effects import CLASS, Reading, reading_of, shares_of
from edgefleet_converters.importance.model_runs import AskedModel
from edgefleet_converters.importance.permutation import COLUMN, Unit
from edgefleet_converters.importance.shap_values import MOST_COLUMNS, Floats, ShapValues, shap_rows, shap_values

Array = npt.NDArray[Any]

MOST_SAMPLES: Final = 50
"""That are explained, and as many that they are compared with."""
_SEED: Final = 0


def check_tables(units: Sequence[Unit], inputs: Sequence[str]) -> None:
    """Raise BadRequestError where the inputs are no table of at most MOST_COLUMNS columns."""
    columns = [unit for unit in units if unit.kind == COLUMN and unit.end == unit.first + 1]
    if (
        len(columns) != len(units)
        or not 0 < len(units) <= MOST_COLUMNS
        or {unit.input for unit in units} != set(inputs)
    ):
        raise BadRequestError(
            f"SHAP is measured of tables of at most {MOST_COLUMNS} columns, and the model takes something else",
            next_step="permutation and occlusion are measured of all models",
        )


def table_of(arrays: Mapping[str, Array]) -> Floats:
    """Return inputs [n, …] next to each other, [n, columns]."""
    return np.concatenate([one.reshape(len(one), -1).astype(np.float64) for one in arrays.values()], axis=1)


def inputs_from(table: Floats, like: Mapping[str, Array]) -> dict[str, Array]:
    """Return a table as the inputs that it was made of. like: those, for their shapes and types."""
    found: dict[str, Array] = {}
    at = 0
    for name, one in like.items():
        width = one[0].size
        part = table[:, at : at + width]
        found[name] = (np.rint(part) if one.dtype.kind in "iu" else part).astype(one.dtype).reshape(-1, *one.shape[1:])
        at += width
    return found


def drawn(arrays: Mapping[str, Array], *sizes: int) -> list[dict[str, Array]]:
    """Return samples [n, …] drawn at random, the same on every run, in groups that share none: data is often sorted by class or time."""
    order = np.random.default_rng(_SEED).permutation(len(next(iter(arrays.values()))))
    ends = np.cumsum(sizes)
    return [
        {name: one[order[end - size : end]] for name, one in arrays.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def explained_rows(
    model: AskedModel, rows: Mapping[str, Array], others: Mapping[str, Array], tools: Path | None, *, is_class: bool
) -> tuple[ShapValues, Floats]:
    """Return the SHAP values of samples, and those of the class that the model answers for each, or of its first number: [n, columns].

    Raises ToolMissingError, ToolFailedError, TimeOverError, RunError.
    """
    mine = model.answers(rows)
    reading = reading_of(mine[:1], -1, is_class=is_class)
    found = shap_values(tools, Path.cwd(), table_of(rows), table_of(others), _asked(model, rows, reading))
    if reading.kind != CLASS:
        return found, found.values[:, :, 0]
    classes = reading.class_of(mine)
    return found, np.asarray(found.values[np.arange(len(classes)), :, classes])


def _asked(model: AskedModel, like: Mapping[str, Array], reading: Reading) -> Callable[[Floats], Floats]:
    def ask(table: Floats) -> Floats:
        answers = model.answers(inputs_from(table, like))
        flat = answers.reshape(len(answers), -1).astype(np.float64)
        return shares_of(flat) if reading.kind == CLASS else flat

    return ask


def shap_document(
    model: AskedModel, arrays: Mapping[str, Array], units: Sequence[Unit], tools: Path | None, *, is_class: bool
) -> dict[str, Any]:
    """Return mean |SHAP| of each column over some samples against others, as the report holds it. Raises as `explained_rows` does."""
    check_tables(units, list(arrays))
    n = min(MOST_SAMPLES, len(next(iter(arrays.values()))) // 2)
    rows, others = drawn(arrays, n, n)
    found, values = explained_rows(model, rows, others, tools, is_class=is_class)
    features = shap_rows(values, [unit.name for unit in units])
    return {
        "why": "", "n": n, "others": n, "exact": found.exact, "versions": found.versions, "features": msgspec.to_builtins(features),
    }  # fmt: skip
