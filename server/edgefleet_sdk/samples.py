"""Samples as the `.npz` that `edgectl publish --calibration` takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefleet_cli.errors import UsageError


def write_samples(folder: Path, x: Any, y: Any, labels: Sequence[str] | None, classes: Any) -> dict[str, Path | None]:
    """Write what was given and return the files by kind. classes: the model's own, in its order, None where it tells none.

    Answers in words become numbers, and the words the labels. Raises UsageError.
    """
    files: dict[str, Path | None] = {}
    if x is not None:
        import numpy as np

        arrays = {str(key): _array(one, "x") for key, one in (x if isinstance(x, Mapping) else {"x": x}).items()}
        if y is not None:
            answers = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
            if answers.dtype.kind in "OUS":
                words = [str(word) for word in (np.unique(answers) if classes is None else classes)]
                labels, answers = labels or words, np.array([words.index(str(one)) for one in answers])
            arrays["y"] = _array(answers, "y")
        files["calibration"] = folder / "samples.npz"
        with (folder / "samples.npz").open("wb") as file:
            np.savez(file, **arrays)
    if labels is not None:
        files["labels"] = folder / "labels.txt"
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    return files


def _array(given: Any, what: str) -> Any:
    import numpy as np

    array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    if array.dtype.kind not in "fiub":
        raise UsageError(
            f"{what} holds {array.dtype} values",
            why="a model takes numbers",
            next_step="encode the columns that are none",
        )
    return array.astype(np.float32) if array.dtype == np.float64 else array
