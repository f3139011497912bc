"""Bring a Hugging Face folder (config.json and model.safetensors) to ONNX.

    python with_transformers.py FOLDER/model.safetensors OUT.onnx ANSWERS.npz REPORT.json

Of an encoder–decoder OUT is the encoder, and OUT.step the decoder's step from one token to the next, which the caller joins
(`decoder_loop`): inputs `token`, `states`, `attention_mask` for text, `kept_0` …; outputs `logits`, `next_0` …. The answers are then
the tokens of a greedy `generate`, with which REPORT has `{kept: the number of values that go from step to step}`.

Run as a file by the Python of the tool environment `torch`, so it imports nothing of edgefleet. ANSWERS holds sample inputs
(`in.<name>`) and the original's answers to them (`out.<i>`). REPORT: `{versions, architecture}` or `{error: {message, next}}`.

Only transformers' own classes are built; code that a folder brings is never run (`trust_remote_code`), nothing is downloaded, and
of the folder only config.json, generation_config.json, model.safetensors and the sentence-transformers settings of the pooling are
read. An encoder with such settings gives one output `sentence_embedding`; else a task's `logits`, or `last_hidden_state`.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
CURE = "export it where it was made: optimum-cli export onnx --model FOLDER FOLDER/onnx, and publish that folder"
TASKS = (
    "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForImageClassification",
)  # fmt: skip
WRITERS = ("ForConditionalGeneration", "MTModel")
MAX_TOKENS = 512
COMPARED = 48
"""Tokens of an answer that are compared (the same number is in `writer_parts`): on random input two tokens may come out alike, and all
behind such a place are others; that is likelier the longer an answer is."""


class RefusedError(Exception):
    """What this cannot convert, with the next step as its second argument."""


def main(source: str, out: str, answers: str, report: str) -> None:
    """Convert and write the three files."""
    if sys.platform == "linux":  # prctl PR_SET_PDEATHSIG: a conversion that is stopped leaves no tool running
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    result: dict[str, Any] = {}
    try:
        name = architecture(Path(source).parent)
        try:
            import torch
            import transformers
        except ImportError as error:
            raise RefusedError(
                f"the tool environment `torch` has no {error.name}", "make it again: edgectl tool install torch"
            ) from None
        result["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
        result["architecture"] = name
        convert = written if name.endswith(WRITERS) else converted
        result |= convert(Path(source).parent, name, out, answers)
    except RefusedError as refused:
        result["error"] = {"message": refused.args[0], "next": refused.args[1]}
    except Exception as error:  # noqa: BLE001 - the folder decides what is raised; the text is shown to the user
        text = " ".join(str(error).split())[:400]
        result["error"] = {
            "message": f"the Hugging Face model cannot be exported: {type(error).__name__}: {text}",
            "next": CURE,
        }
    Path(report).write_text(json.dumps(result), encoding="utf-8")


def converted(folder: Path, name: str, out: str, answers: str) -> dict[str, Any]:
    """Write the ONNX file and the answers; return nothing more to report. name: of the class. Raises RefusedError."""
    import torch

    model = loaded(folder, name)
    pooling = pooling_of(folder) if name.endswith("Model") else ""
    net = wrapped(model, pooling).eval()
    example, other, shapes = inputs_of(model)
    with torch.no_grad():
        made = torch.onnx.export(
            net, (), kwargs=example, dynamo=True, dynamic_shapes=shapes, verbose=False, output_names=outputs_of(name, pooling)
        )  # fmt: skip
        made.save(out, external_data=False)
        write_answers(net(**other), other, answers)
    return {}


def written(folder: Path, name: str, out: str, answers: str) -> dict[str, Any]:
    """Write encoder and step of an encoder–decoder, and the first tokens of its greedy search. Raises RefusedError."""
    import torch
    import transformers

    model = loaded(folder, name).eval()
    example, other, shapes = inputs_of(model)
    encoder, step = parts_of(model)
    with torch.no_grad():
        made = torch.onnx.export(
            encoder, (), kwargs=example, dynamo=True, dynamic_shapes=shapes, verbose=False, output_names=["states"]
        )  # fmt: skip
        made.save(out, external_data=False)
        given, open_lengths = step_inputs(model, encoder, step, example, shapes)
        kept = range(len(given["kept"]))
        made = torch.onnx.export(
            step, (), kwargs=given, dynamo=True, dynamic_shapes=open_lengths, verbose=False,
            input_names=["token", "states", *(f"kept_{at}" for at in kept), *(key for key in given if key == "attention_mask")],
            output_names=["logits", *(f"next_{at}" for at in kept)],
        )  # fmt: skip
        made.save(f"{out}.step", external_data=False)
        stop = transformers.StoppingCriteriaList([stop_behind(COMPARED)])
        tokens = model.generate(**other, num_beams=1, do_sample=False, stopping_criteria=stop)
        write_answers(tokens, other, answers)
    return {"kept": len(kept)}


def stop_behind(count: int) -> Any:
    """Return a criterion that ends a search behind so many tokens, whatever lengths its rules know."""
    import torch

    asked = 0

    def is_over(tokens: Any, scores: Any, **_: Any) -> Any:
        nonlocal asked
        asked += 1
        return torch.full((len(tokens),), asked >= count, dtype=torch.bool)

    return is_over


def parts_of(model: Any) -> tuple[Any, Any]:
    """Return the encoder of a model and one step of its decoder as modules."""
    import torch
    import transformers

    encoder = model.get_encoder()
    cache = cache_name(model)

    class Encoder(torch.nn.Module):  # type: ignore[misc] # torch is in the tool environment alone
        """Inputs to states [batch, length, width]."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any = None, attention_mask: Any = None, input_features: Any = None) -> Any:
            """Return the states."""
            if input_features is not None:
                return self.encoder(input_features).last_hidden_state
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    class Step(torch.nn.Module):  # type: ignore[misc]
        """One token behind those of which keys and values are kept; those of the encoder's states are made again."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, token: Any, states: Any, kept: Any, attention_mask: Any = None) -> Any:
            """Return logits [batch, words], and what is kept with this token's own."""
            own = transformers.DynamicCache()
            for at in range(0, len(kept), 2):
                own.update(kept[at], kept[at + 1], at // 2)
            both = transformers.EncoderDecoderCache(own, transformers.DynamicCache())
            states = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states)
            more = {cache: both} | ({} if attention_mask is None else {"attention_mask": attention_mask})
            answer = self.model(decoder_input_ids=token, encoder_outputs=states, use_cache=True, **more)
            return answer.logits[:, -1], *(part for layer in own.layers for part in (layer.keys, layer.values))

    return Encoder().eval(), Step().eval()


def cache_name(model: Any) -> str:
    """Return what this version of transformers calls the argument for what is kept."""
    import inspect

    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def step_inputs(
    model: Any, encoder: Any, step: Any, example: dict[str, Any], shapes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return example inputs of a step, and its open lengths; the sizes of what is kept are those of a first step."""
    import torch

    states = encoder(**example)
    batch, length = next(iter(shapes.values()))[0], torch.export.Dim("kept", min=1, max=1 << 16)
    start = torch.full((len(states), 1), int(model.config.vocab_size) - 1)
    given: dict[str, Any] = {"token": start, "states": states}
    opened: dict[str, Any] = {"token": {0: batch}, "states": {0: batch}}
    text = {key: example[key] for key in ("attention_mask",) if key in example}
    if text:
        opened["states"] = dict(shapes["attention_mask"])
    first = step(**given, kept=[], **text)[1:]
    kept = [torch.randn(len(part), part.shape[1], 3, part.shape[3]) for part in first]
    given |= {"kept": kept} | text
    opened |= {"kept": [{0: batch, 2: length} for _ in kept]} | {key: dict(shapes[key]) for key in text}
    return given, opened


def outputs_of(name: str, pooling: str) -> list[str]:
    """Return the names of the outputs of a class."""
    if name.endswith("ForQuestionAnswering"):
        return ["start_logits", "end_logits"]
    return ["sentence_embedding" if pooling else "last_hidden_state" if name.endswith("Model") else "logits"]


def architecture(folder: Path) -> str:
    """Return the class that the configuration names. Raises RefusedError where it is no encoder or has code of its own."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in config:
        raise RefusedError("the folder's model is built by code of its own (auto_map), which is never run", CURE)
    named = config.get("architectures") or []
    name = str(named[0]) if len(named) == 1 else ""
    if config.get("is_encoder_decoder"):
        return _writer(name)
    if config.get("is_decoder"):
        raise RefusedError(
            "the model is a decoder alone, which goes on with a text; encoders and encoder–decoders are taken",
            "publish an encoder, or an encoder–decoder such as Whisper, T5, BART or Marian",
        )
    if not name.isidentifier() or not name.endswith(TASKS):
        raise _unknown(name)
    return name


def _writer(name: str) -> str:
    """Return the name of a class that writes tokens. Raises RefusedError."""
    if name.isidentifier() and name.endswith(WRITERS):
        return name
    raise RefusedError(
        f"config.json names {name[:80] or '(none)'!r}; of encoder–decoders those that write tokens are taken: "
        "…ForConditionalGeneration and …MTModel",
        "save it as the class that generates text, and publish that folder; or " + CURE,
    )


def _unknown(name: str) -> RefusedError:
    return RefusedError(
        f"config.json names the architecture {name[:80] or '(none)'!r}; transformers' own encoders are taken, for "
        "sequences, tokens, answers in a text, masked words and images",
        CURE,
    )


def loaded(folder: Path, name: str) -> Any:
    """Return the model with its weights in float32. Raises RefusedError where weights are missing."""
    import torch
    import transformers

    found: Any = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise _unknown(name)
    own = Path("hf-model")  # a folder of these files: nothing else of the upload can take part
    own.mkdir()
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        if (folder / file).is_file() and not (folder / file).is_symlink():
            (own / file).symlink_to((folder / file).resolve())
    maker: Any = found
    model, told = maker.from_pretrained(
        own, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32,
        attn_implementation="eager", output_loading_info=True,
    )  # fmt: skip
    missing = sorted(key for key in told["missing_keys"] if ".pooler." not in f".{key}")
    if missing or told["mismatched_keys"]:
        what = missing[0] if missing else str(min(told["mismatched_keys"]))[:120]
        raise RefusedError(
            f"model.safetensors does not fit config.json: {what} is missing or has another shape, of {name}",
            "save the model again with save_pretrained, and publish that folder",
        )
    if model.main_input_name == "pixel_values" and not getattr(model.config, "image_size", None):
        model.config.image_size = image_size(folder)
    return model


def image_size(folder: Path) -> list[int]:
    """Return height and width of images by the folder's preprocessor_config.json. Raises RefusedError where it has none."""
    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        size = settings.get("crop_size") or settings["size"]
        if isinstance(size, dict):
            size = [size["height"], size["width"]] if "height" in size else [size["shortest_edge"]] * 2
        return [int(length) for length in (size if isinstance(size, list) else [size] * 2)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RefusedError(
            "neither config.json (image_size) nor preprocessor_config.json (crop_size, size) says how large its images are",
            'save the processor into the folder as well, or add "image_size": 224 to config.json',
        ) from None


def pooling_of(folder: Path) -> str:
    """Return how sentence-transformers pools: `mean` or `cls`, with `,norm` behind it; empty without such settings."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        settings = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    modes = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    word = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]) or len(modes) != 1:
        return ""
    return word[modes[0]] + (",norm" if kinds[2:] else "") if modes[0] in word else ""


def wrapped(model: Any, pooling: str) -> Any:
    """Return a module with named inputs and the outputs that are served, in order."""
    import torch

    class Tokens(torch.nn.Module):  # type: ignore[misc] # torch is in the tool environment alone
        """A model of text, and what sentence-transformers does behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            """Return one output, or two for a question's answer."""
            kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            return served(
                self.model(input_ids=input_ids, attention_mask=attention_mask, **kinds), attention_mask, pooling
            )

    class Image(torch.nn.Module):  # type: ignore[misc]
        """A model of images."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            """Return one output."""
            return served(self.model(pixel_values=pixel_values), None, "")

    return Image() if model.main_input_name == "pixel_values" else Tokens()


def served(answer: Any, mask: Any, pooling: str) -> Any:
    """Return the outputs of a model's answer that are served."""
    import torch

    if "start_logits" in answer:
        return answer.start_logits, answer.end_logits
    if "logits" in answer:
        return answer.logits
    states = answer.last_hidden_state
    if not pooling:
        return states
    if pooling.startswith("cls"):
        pooled = states[:, 0]
    else:
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=1) if pooling.endswith(",norm") else pooled


def inputs_of(model: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return example inputs, others of another size, and the open dimensions."""
    import inspect

    import torch

    torch.manual_seed(0)
    config, batch = model.config, torch.export.Dim("batch")
    if model.main_input_name == "pixel_values":
        size = config.image_size if isinstance(config.image_size, (list, tuple)) else [config.image_size] * 2
        shape = [int(config.num_channels), *(int(length) for length in size)]
        images = [{"pixel_values": torch.randn(count, *shape)} for count in (2, 3)]
        return images[0], images[1], {"pixel_values": {0: batch}}
    if model.main_input_name == "input_features" and config.model_type == "whisper":
        shape = [int(config.num_mel_bins), 2 * int(config.max_source_positions)]
        sounds = [{"input_features": torch.randn(count, *shape)} for count in (2, 3)]
        return sounds[0], sounds[1], {"input_features": {0: batch}}
    if model.main_input_name != "input_ids":
        what = f"the model's input is {model.main_input_name}; tokens, images and the features of Whisper are taken"
        raise RefusedError(what, CURE)
    longest = int(getattr(config, "max_position_embeddings", MAX_TOKENS) or MAX_TOKENS)
    longest = max(4, min(MAX_TOKENS, longest - 2))
    tokens = torch.export.Dim("tokens", min=2, max=longest)
    takes = inspect.signature(model.forward).parameters

    def made(count: int, length: int) -> dict[str, Any]:
        ids = torch.randint(2, int(config.vocab_size), (count, length))
        mask = torch.ones_like(ids)
        mask[-1, length // 2 :] = 0
        given = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in takes and getattr(config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = torch.zeros_like(ids)
        return given

    first, second = made(2, min(12, longest)), made(3, min(9, longest - 1))
    return first, second, {key: {0: batch, 1: tokens} for key in first}


def write_answers(answer: Any, inputs: dict[str, Any], path: str) -> None:
    """Write sample inputs and what the original answers to them."""
    import numpy as np

    outputs = answer if isinstance(answer, tuple) else (answer,)
    arrays = {f"in.{name}": value.numpy() for name, value in inputs.items()}
    np.savez(path, **arrays, **{f"out.{index}": value.numpy() for index, value in enumerate(outputs)})


if __name__ == "__main__":
    main(*sys.argv[1:5])
