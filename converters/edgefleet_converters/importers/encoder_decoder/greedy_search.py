"""How an encoder–decoder writes its answer: what its folder says of it, as rules for one loop. Pure (ADR 0096).

Read as transformers reads them (`generation_config.json`, else `config.json`): of each step the most likely token is taken. What would
change that token and cannot be part of the loop is refused; what belongs to other searches (beams, sampling) is noted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.errors import InvalidModelError

Array = npt.NDArray[Any]

_DEFAULT_NEW: Final = 20
"""New tokens where the folder sets no length, as in transformers."""
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "sequence_bias": ({},), "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,), "return_timestamps": (False,), "penalty_alpha": (0.0,), "dola_layers": (), "stop_strings": (),
    "force_words_ids": (), "constraints": (), "watermarking_config": (),
}  # fmt: skip
"""Setting -> its values, next to none at all, that change no token of a greedy search."""


_OWN: Final = frozenset(
    {
        "forced_decoder_ids",
        "lang_to_id",
        "task_to_id",
        "language",
        "task",
        "no_timestamps_token_id",
        "return_timestamps",
    }
)
"""Settings that Whisper alone has."""


@dataclass(frozen=True)
class Decoding:
    """Rules of one greedy search. Positions count from the first new token.

    start: the token before all others; prompt: those behind it that are given, None for a language that the model names itself, one of
    `languages`. eos: any of these ends an answer; pad fills up behind it. new: at most so many tokens. banned: never; banned_first: not
    at position 0; least: `eos` is banned before this position. forced: position -> token. notes: what is not honoured, in words.
    """

    start: int
    prompt: tuple[int | None, ...]
    languages: tuple[int, ...]
    eos: tuple[int, ...]
    pad: int
    new: int
    banned: tuple[int, ...]
    banned_first: tuple[int, ...]
    least: int
    forced: Mapping[int, int]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """How often the decoder runs at most."""
        return len(self.prompt) + self.new

    def forced_at(self, step: int) -> int | None:
        """Return the token that a step takes in any case. step: from 0, the first one behind the start."""
        place = step - len(self.prompt)
        return self.prompt[step] if place < 0 else self.forced.get(place)

    def banned_at(self, step: int, words: int) -> frozenset[int]:
        """Return the tokens, of so many, that a step must not take."""
        place = step - len(self.prompt)
        if place < 0:
            return frozenset(range(words)).difference(self.languages) if self.prompt[step] is None else frozenset()
        first = self.banned_first if place == 0 else ()
        return frozenset((*self.banned, *first, *(self.eos if place < self.least else ())))


def decoding_of(config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> Decoding:
    """Return the rules that a folder asks for. config: of config.json; generation: of generation_config.json, None without one.

    Raises InvalidModelError for a setting that changes the answer and cannot be honoured.
    """
    # A file without a setting leaves it to transformers' default, not to config.json; only the tokens' numbers are looked up there.
    told = dict(config if generation is None else generation)
    if told.get(
        "_from_model_config"
    ):  # a copy of an old config.json: transformers then knows no settings of a model's own
        told = {name: value for name, value in told.items() if name not in _OWN}
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        told[name] = config.get(name) if told.get(name) is None else told[name]
    _refuse(told)
    start = _token(told.get("decoder_start_token_id"), "decoder_start_token_id")
    is_whisper = config.get("model_type") == "whisper"
    prompt, languages = _whisper_prompt(told, config) if is_whisper else ((), ())
    eos = _tokens(told.get("eos_token_id"), "eos_token_id")
    new = _new_tokens(told, config, 1 + len(prompt), is_whisper=is_whisper)
    forced = {}
    if told.get("forced_eos_token_id") is not None:
        forced[new - 1] = _tokens(told["forced_eos_token_id"], "forced_eos_token_id")[0]
    is_forced = told.get("forced_bos_token_id") is not None and not prompt
    if is_forced:
        forced[0] = _token(told["forced_bos_token_id"], "forced_bos_token_id")
    shortest = int(told.get("min_length") or 0) - 1 - len(prompt)
    first = _tokens(told.get("begin_suppress_tokens"), "begin_suppress_tokens")
    pad = told.get("pad_token_id")
    return Decoding(
        start=start, prompt=prompt, languages=languages, eos=eos, new=new, forced=forced,
        pad=_token(pad, "pad_token_id") if pad is not None else (eos or (0,))[0],
        banned=(*_tokens(told.get("suppress_tokens"), "suppress_tokens"), *_bad_words(told, eos)),
        # Behind a forced first token transformers bans them at the next one, which no model is known to need.
        banned_first=() if is_forced else first,
        least=max(0, shortest if told.get("min_new_tokens") is None else int(told["min_new_tokens"])),
        notes=_notes(told, eos, first if is_forced else ()),
    )  # fmt: skip


def best_token(rules: Decoding, step: int, scores: Array) -> tuple[int, bool]:
    """Return the token that a step takes and whether it ends the answer. scores: float [words], as the decoder gives them."""
    allowed = scores.copy()
    allowed[[token for token in rules.banned_at(step, len(scores)) if token < len(scores)]] = -np.inf
    forced = rules.forced_at(step)
    token = int(allowed.argmax()) if forced is None else forced
    return token, step >= len(rules.prompt) and token in rules.eos


def answers_of(rules: Decoding, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return tokens that transformers generated as the loop writes them: without the prompt, filled up behind the first end.

    Its Whisper leaves prompt and end out, others leave neither out.
    """
    return [_answer(rules, list(map(int, row))) for row in rows]


def _answer(rules: Decoding, row: list[int]) -> list[int]:
    prompt = [rules.start, *rules.prompt]
    if len(row) >= len(prompt) and all(mine is None or mine == token for mine, token in zip(prompt, row, strict=False)):
        row = row[len(prompt) :]
    ends = [at for at, token in enumerate(row) if token in rules.eos]
    written = row[: ends[0]] if ends else row
    ending = list(row[ends[0] : ends[0] + 1]) if ends else list(rules.eos[:1])
    return [*written, *ending, *[rules.pad] * rules.new][: rules.new]


def _refuse(told: Mapping[str, Any]) -> None:
    for name, neutral in _NEUTRAL.items():
        value = told.get(name)
        if value is None or value in neutral or (isinstance(value, list | dict) and not value):
            continue
        cure = "false" if name == "return_timestamps" else "null"
        raise InvalidModelError(
            f"the folder's generation settings ask for {name} = {str(value)[:60]}, which changes the answer and is no part of "
            "the loop that a device runs",
            next_step=f"set {name} to {cure} in generation_config.json, if the answers are good without it, and publish again",
        )


def _whisper_prompt(
    told: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """Return the tokens behind the start, and the languages that a free place is one of (transformers' WhisperGenerationMixin)."""
    task, language = told.get("task"), told.get("language")
    known, tasks = dict(told.get("lang_to_id") or {}), dict(told.get("task_to_id") or {})
    prompt: list[int | None] = []
    forced = told.get("forced_decoder_ids") or config.get("forced_decoder_ids") or []
    if task is None and language is None:
        for place, pair in enumerate(forced, 1):
            if pair[0] != place:
                raise InvalidModelError(
                    f"forced_decoder_ids has no token for position {place}",
                    next_step="list positions 1, 2, … in generation_config.json, or set task and language there",
                )
            prompt.append(None if pair[1] is None else int(pair[1]))
    if language is not None:
        name = next((key for key in (str(language), f"<|{str(language).lower()}|>") if key in known), None)
        if name is None:
            raise InvalidModelError(
                f"the language {str(language)[:40]!r} is not among the model's lang_to_id",
                next_step="set language in generation_config.json to a code, such as en",
            )
        prompt[:1] = [int(known[name])]
    elif known and (not prompt or prompt[0] is None):
        prompt[:1] = [None]
    if task is not None or (language is not None and tasks):
        name = "transcribe" if task is None else str(task)
        if name not in tasks:
            raise InvalidModelError(
                f"the task {name[:40]!r} is not among the model's task_to_id",
                next_step="set task in generation_config.json to transcribe or translate",
            )
        prompt.append(int(tasks[name]))
    ending = told.get("no_timestamps_token_id")
    if ending is not None and ([*prompt] or [None])[-1] != ending:
        prompt.append(int(ending))
    if not known:
        prompt = [token for token in prompt if token is not None]
    return tuple(prompt), tuple(sorted(int(value) for value in known.values())) if None in prompt else ()


def _new_tokens(told: Mapping[str, Any], config: Mapping[str, Any], prompt: int, *, is_whisper: bool) -> int:
    """Return how many tokens an answer has at most. prompt: tokens that are there before it."""
    positions = int(config.get("max_target_positions") or config.get("max_position_embeddings") or 0) or 1 << 16
    if told.get("max_new_tokens") is not None:
        new = int(told["max_new_tokens"])
    elif told.get("max_length") is not None:
        new = int(told["max_length"]) - (0 if is_whisper else prompt)
    else:
        new = _DEFAULT_NEW
    new = min(new, positions - prompt)
    if new < 1:
        raise InvalidModelError(
            f"the folder's generation settings leave room for {new} tokens",
            next_step="set max_new_tokens in generation_config.json",
        )
    return new


def _bad_words(told: Mapping[str, Any], eos: Sequence[int]) -> tuple[int, ...]:
    words = [list(word) for word in told.get("bad_words_ids") or [] if list(word) not in [[token] for token in eos]]
    if any(len(word) != 1 for word in words):
        raise InvalidModelError(
            "bad_words_ids holds words of several tokens, which a loop that looks at one token at a time cannot keep out",
            next_step="leave words of one token in generation_config.json, and publish again",
        )
    return tuple(_token(word[0], "bad_words_ids") for word in words)


def _notes(told: Mapping[str, Any], eos: Sequence[int], first: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if int(told.get("num_beams") or 1) > 1:
        notes.append(
            f"the folder asks for a search with {told['num_beams']} beams; the loop takes the best token of each step"
        )
    if told.get("do_sample"):
        notes.append("the folder asks for sampling; the loop takes the best token of each step")
    if not eos:
        notes.append("no eos_token_id: every answer has the full length")
    if first:
        notes.append("begin_suppress_tokens behind forced_bos_token_id is left out")
    if "max_new_tokens" not in told and told.get("max_length") is None:
        notes.append(f"no max_new_tokens: an answer has at most {_DEFAULT_NEW}, as in transformers")
    return tuple(notes)


def _tokens(value: Any, name: str) -> tuple[int, ...]:
    """Return one number or a list of them; -1 stands for none in old files."""
    values = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    return tuple(token for token in (_token(one, name) for one in values) if token >= 0)


def _token(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidModelError(
            f"{name} is {str(value)[:40]}, which is no token", next_step=f"set {name} in generation_config.json"
        )
    return value
