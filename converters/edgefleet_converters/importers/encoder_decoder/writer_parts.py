"""An encoder–decoder of a Hugging Face folder as one graph: its rules from the folder's JSON files, its parts from a tool."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from edgefleet_converters.errors import InvalidModelError, NotAModelError
from edgefleet_converters.importers.encoder_decoder.decoder_loop import Step, looped
from edgefleet_converters.importers.encoder_decoder.greedy_search import Decoding, answers_of, decoding_of
from edgefleet_converters.importers.folder_layouts import is_plain

Array = npt.NDArray[Any]

COMPARED: Final = 48
"""First tokens of an answer that `with_transformers` generates."""
MAX_SETTINGS_BYTES: Final = 16 * 1024 * 1024


def rules_of(folder: Path) -> Decoding | None:
    """Return how the model of a folder writes its answer, None for one that writes none. Reads two JSON files.

    Raises NotAModelError for files that are no JSON, InvalidModelError for settings that cannot be honoured.
    """
    config = _settings(folder, "config.json") or {}
    if not config.get("is_encoder_decoder"):
        return None
    return decoding_of(config, _settings(folder, "generation_config.json"))


def joined(encoder: bytes, step: Path, kept: int, rules: Decoding) -> bytes:
    """Return the one model of the parts that `with_transformers` wrote. kept: values that go from step to step.

    Raises InvalidModelError.
    """
    parts = onnx.load_model_from_string(encoder), onnx.load_model_from_string(step.read_bytes())
    step.unlink()
    inputs = {value.name for value in parts[1].graph.input}
    given = {name: name for name in ("states", "attention_mask") if name in inputs}
    pairs = tuple((f"kept_{at}", f"next_{at}") for at in range(kept))
    return serialised(parts[0], Step(parts[1], "token", given, pairs, "logits"), rules)


def serialised(encoder: onnx.ModelProto, step: Step, rules: Decoding) -> bytes:
    """Return the bytes of the joined model. Raises InvalidModelError where the parts do not fit."""
    try:
        data: bytes = looped(encoder, step, rules).SerializeToString(deterministic=True)
    except ValueError as error:
        raise InvalidModelError(
            f"encoder and decoder do not fit each other: {' '.join(str(error).split())[:300]}",
            next_step="export both again with one version of one exporter",
        ) from error
    return data


def loop_facts(rules: Decoding) -> dict[str, Any]:
    """Return what the report says of the search for tokens."""
    facts = {
        "search": "greedy",
        "prompt": [rules.start, *rules.prompt],
        "ends": list(rules.eos),
        "most_tokens": rules.new,
    }
    return {"decoding": facts | ({"notes": "; ".join(rules.notes)} if rules.notes else {})}


def wanted(arrays: dict[str, Array], rules: Decoding) -> dict[str, Array]:
    """Return a tool's samples with the generated tokens as the loop writes them, as many as the tool looks at."""
    tokens = np.array(answers_of(rules, arrays["out.0"].tolist()), np.int64)
    return arrays | {"out.0": tokens[:, :COMPARED]}


def _settings(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what a JSON file of the folder holds, None where there is none."""
    if not is_plain(folder, name):
        return None
    path = folder / name
    try:
        document = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_SETTINGS_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise NotAModelError(
            f"{name} is no JSON object of at most {MAX_SETTINGS_BYTES} bytes", next_step="copy the folder again"
        )
    return document
