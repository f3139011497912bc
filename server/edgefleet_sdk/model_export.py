"""A model object and its samples as files that the converters read. Imports no framework: the object's own is loaded already."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError


def save_model(model: Any, folder: Path, x: Any = None) -> str:
    """Return the path of a model's file, written into `folder`, or what was given. Raises UsageError. x: to trace PyTorch with."""
    if isinstance(model, str | PathLike):
        return str(model)
    kinds = {(base.__module__.partition(".")[0], base.__name__) for base in type(model).__mro__}
    if ("sklearn", "BaseEstimator") in kinds:
        import skops.io

        skops.io.dump(model, file := folder / "model.skops")
    elif kinds & {("torch", "Module"), ("torch", "ExportedProgram")}:
        import torch

        program = model if ("torch", "ExportedProgram") in kinds else _traced(model, x)
        torch.export.save(program, file := folder / "model.pt2")
    elif ("keras", "Model") in kinds:
        model.save(file := folder / "model.keras")
    elif ("onnx", "ModelProto") in kinds:
        (file := folder / "model.onnx").write_bytes(model.SerializeToString())
    else:
        raise UsageError(
            f"a {type(model).__module__}.{type(model).__qualname__} cannot be published",
            why="it is no scikit-learn estimator, PyTorch module, Keras or ONNX model",
            next_step="export it to ONNX and give the path of that file",
        )
    return str(file)


def _traced(module: Any, x: Any) -> Any:
    """Return a PyTorch module as an exported program with an open batch, traced with two samples."""
    import torch

    if x is None:
        raise UsageError("a PyTorch module needs x", why="it is traced with two samples", next_step="give x=SAMPLES")
    named = {key: torch.as_tensor(one)[:2] for key, one in (x if isinstance(x, Mapping) else {"": x}).items()}
    named = {key: one.float() if one.dtype == torch.float64 else one for key, one in named.items()}
    given, by_name = ((), named) if isinstance(x, Mapping) else (tuple(named.values()), {})
    open_batch = {0: torch.export.Dim("batch")}
    shapes: Any = dict.fromkeys(by_name, open_batch) or tuple(open_batch for _ in given)
    was_training = module.training
    try:
        return torch.export.export(module.eval(), given, by_name, dynamic_shapes=shapes)
    finally:
        module.train(was_training)


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
