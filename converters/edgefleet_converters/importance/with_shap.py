"""SHAP values by the package `shap`, in the Python of its tool environment: `python -I with_shap.py`. Imports nothing of ours.

The model is not here: whoever started this answers for it. On stdin one line of JSON {rows, others, columns, seed, evaluations}, then rows
and others as float64. While it works it writes a line `ask N` and N × columns numbers, and reads a line with the width of an answer and
N × width numbers. At the end a line of JSON {versions, exact, width} and rows × columns × width numbers; or {error}.
"""

import json
import os
from typing import IO, Any

EXACT_COLUMNS = 10
"""Up to so many, all 2 ** n sets are asked for; beyond, permutations are drawn."""


def main() -> None:
    """Work until stdin says nothing more."""
    source, answer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the package prints must not be taken for an answer
    try:
        told, numbers = work(source, answer)
    except Exception as error:  # noqa: BLE001 - whatever the package raises is told to the one who waits
        told, numbers = {"error": f"{type(error).__name__}: {error}"[:300]}, b""
    answer.write(json.dumps(told).encode() + b"\n" + numbers)
    answer.flush()


def work(source: IO[bytes], answer: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Return what is told at the end, and the numbers behind it."""
    asked = json.loads(source.readline())
    columns = int(asked["columns"])
    # All is read before the imports, which may fail: who waits must be able to write it.
    first, second = (source.read(8 * int(asked[name]) * columns) for name in ("rows", "others"))

    import numpy as np
    import shap

    def numbers(data: bytes, width: int) -> Any:
        return np.frombuffer(data, dtype="<f8").reshape(-1, width).copy()

    rows, others = numbers(first, columns), numbers(second, columns)

    def model(samples: Any) -> Any:
        data = np.ascontiguousarray(samples, dtype="<f8")
        answer.write(b"ask %d\n" % len(data) + data.tobytes())
        answer.flush()
        width = int(source.readline())
        return numbers(source.read(8 * len(data) * width), width)

    masker = shap.maskers.Independent(others, max_samples=len(others))
    exact = columns <= EXACT_COLUMNS
    if exact:
        found = shap.ExactExplainer(model, masker)(rows)
    else:
        made = shap.PermutationExplainer(model, masker, seed=int(asked["seed"]))
        found = made(rows, max_evals=int(asked["evaluations"]), silent=True)
    values = np.asarray(found.values, dtype="<f8")
    values = values.reshape(len(rows), columns, -1)
    told = {
        "versions": {"shap": shap.__version__, "numpy": np.__version__},
        "exact": exact,
        "width": values.shape[2],
    }
    return told, np.ascontiguousarray(values).tobytes()


if __name__ == "__main__":
    main()
