"""The work of one conversion job: sandboxed steps and what they made, each step done once.

Profiles often share a candidate (same recipe, same runtime), so results are kept by what they depend on: a model file by its
recipe, an answer by model digest, runtime and samples, a measurement by model digest, runtime and threads.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.run_model import output_key
from edgefleet_converters.errors import ConversionError, NotFiniteError, TransformError
from edgefleet_converters.layer_search import Found
from edgefleet_converters.recipe import CandidateSpec, Recipe
from edgefleet_converters.request import Options
from edgefleet_converters.sample_data import SampleSet, read_arrays, save_arrays
from edgefleet_converters.sandbox import Sandbox
from edgefleet_converters.search_budget import SearchBudget, budget_s
from edgefleet_converters.source import FoundSource, found_from
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.quantization import real_values

Array = npt.NDArray[Any]
K = TypeVar("K")
T = TypeVar("T")

TIMED_RUNS = 50
PROBES = 4
"""Samples that a simplified model is compared on."""
READING_S = 6
READING_BYTES_S = 5_000_000
"""Processor time for reading a source; a sound model is read at over 50 MB/s."""
_LONG = 4.0
"""Times the usual limits for steps that run a model many hundred times: they end by count, and a busy machine is no error."""
MAX_KEPT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class ModelFile:
    """A model on disk. facts: of its import step."""

    path: Path
    sha256: str
    bytes: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What a model answered. outputs: by output name, first axis = samples."""

    outputs: dict[str, Array]
    inputs: tuple[TensorSpec, ...]
    specs: tuple[TensorSpec, ...]
    runtime: str
    version: str
    nonfinite: dict[str, int]


def as_compiled(file: ModelFile, runtime: str, *, of: ModelFile | None = None) -> ModelFile:
    """Return a `.tflite` file of which smaller forms are made for a runtime. of: its source, None = the file itself."""
    made_of = {"model": str((of or file).path), "runtime": runtime}
    return replace(file, facts=file.facts | {"compiled_from": made_of})


def comparable(answers: Answers, reference: Answers) -> dict[str, Array]:
    """Return a model's outputs by its own names, in real values where the source's are float and the model's quantized."""
    return {
        mine.name: real_values(mine, answers.outputs[mine.name])
        if theirs.dtype == "float32"
        else answers.outputs[mine.name]
        for mine, theirs in zip(answers.specs, reference.specs, strict=True)
    }


@dataclass(frozen=True)
class Stream:
    """Runs of a model with a memory. feedback: (position of an output, the input that takes it in the next run). each: after so
    many runs a new stream begins, with the states that the samples hold.
    """

    feedback: tuple[tuple[int, str], ...]
    steps: int
    each: int


@dataclass(frozen=True)
class Measured:
    """How a model ran on this host. latency_ms: p50 and p95 of single runs. cold_start_ms: from the file to the first answer.

    arena_bytes: TFLite Micro only, else 0.
    """

    latency_ms: tuple[float, float]
    peak_rss_bytes: int
    cold_start_ms: float
    arena_bytes: int = 0


@dataclass(frozen=True)
class Prepared:
    """A model made ready for quantization with samples, and what they showed of it (`onnx.prepare`)."""

    model: ModelFile
    calibration: Path


@dataclass
class JobSteps:
    """One job's sandbox, folder and memory. `stages_s` sums wall seconds by stage. stop: a file that asks searches to end."""

    sandbox: Sandbox
    folder: Path
    stop: Path | None = None
    stages_s: dict[str, float] = field(default_factory=dict)
    looks: dict[str, set[str]] = field(default_factory=dict)
    """By profile the candidates that were held against the hold-out."""
    _files: int = 0
    _sample_files: dict[int, tuple[SampleSet, Path]] = field(default_factory=dict)
    _made: dict[str, ModelFile | ConversionError] = field(default_factory=dict)
    _ready: dict[str, Prepared | ConversionError] = field(default_factory=dict)
    _found: dict[str, Found | ConversionError] = field(default_factory=dict)
    _answers: dict[tuple[str, ...], Answers | ConversionError] = field(default_factory=dict)
    _measured: dict[tuple[str, str, int], Measured | ConversionError] = field(default_factory=dict)
    _counted: dict[tuple[str, str], dict[str, Any] | ConversionError] = field(default_factory=dict)
    _versions: dict[str, str | ConversionError] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.stages_s[name] = self.stages_s.get(name, 0.0) + time.monotonic() - started_s

    def search_budget(self, given_s: float | None, source_bytes: int) -> SearchBudget:
        """Return the budget of a search that begins now. given_s: what the user said."""
        seconds = budget_s(given_s, source_bytes)
        return SearchBudget(seconds, self.sandbox.spent_s, lambda: self.sandbox.spent_s, self.stop)

    def find(self, upload: Path) -> FoundSource:
        """Return the model in an upload. Raises a SourceError."""
        args = {"upload": str(upload.absolute())}
        what = f"looking at {upload.name}"
        return found_from(self.sandbox.build("find_source", args, what=what, cpu_s=_reading_s(upload)).answer)

    def import_model(self, found: FoundSource, options: Options, tools_dir: Path | None) -> ModelFile:
        """Return the checked, self-contained copy of a source, with the shapes and values that `options` fix.

        A source that is neither ONNX nor TFLite becomes ONNX first; the facts then have `imported`. Raises a SourceError.
        """
        path, folder, imported = found.path.absolute(), found.folder, None
        if found.kind != found.format:
            path, folder, imported = self._new("imported.onnx"), None, {}
            args = {
                "model": str(found.path.absolute()), "kind": found.kind, "allow_pickle": options.allow_pickle,
                "tools": str(tools_dir.absolute()) if tools_dir else None, "out": str(path),
            }  # fmt: skip
            imported = self.sandbox.build("foreign_import", args, what=f"importing {found.path.name}").answer
        out = self._new(f"source.{found.format}")
        args = {
            "model": str(path), "out": str(out), "folder": str(folder.absolute()) if folder else None,
            "shapes": options.shapes, "values": options.values,
        }  # fmt: skip
        what, cpu_s = f"reading {found.path.name}", _reading_s(folder or path)
        facts = self.sandbox.build(f"{found.format}_import", args, what=what, cpu_s=cpu_s).answer
        return self._file(out, facts if imported is None else facts | {"imported": imported})

    def runtime_version(self, runtime: str) -> str:
        """Return the version of a runtime that can really be imported here. Raises RuntimeUnavailableError."""

        def probed() -> str:
            outcome = self.sandbox.execute("probe_runtime", {"runtime": runtime}, what=f"importing {runtime}")
            return str(outcome.answer["version"])

        return _once(self._versions, runtime, probed)

    def tensors(self, model: ModelFile, runtime: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Return a model's inputs and outputs as the runtime names them. Raises LoadFailedError, CrashedError …"""
        args = self._run_args(model, runtime, samples=None, outputs=None)
        answer = self.sandbox.execute("run_model", args, what=f"loading the model in {runtime}").answer
        return _specs(answer["inputs"]), _specs(answer["outputs"])

    def answers(
        self, model: ModelFile, runtime: str, samples: SampleSet, *, key: str, threads: int = 1, batch: int = 1,
        stream: Stream | None = None,
    ) -> Answers:  # fmt: skip
        """Return what `model` answers to `samples`. key: names the samples, for reuse. batch: samples in one run, where every
        input's first dimension is open. stream: run as one stream in which states are given back.

        Raises LoadFailedError, CrashedError, TimedOutError, OutOfMemoryError, TransformError.
        """
        memo = (model.sha256, runtime, key, str(threads), str(batch))
        answers = _once(self._answers, memo, lambda: self._answered(model, runtime, samples, threads, batch, stream))
        self._forget_old_answers(memo)
        return answers

    def _forget_old_answers(self, keep: tuple[str, ...]) -> None:
        """Drop the oldest kept answers beyond `MAX_KEPT_BYTES`: a detector's outputs are hundreds of MB a candidate."""
        sizes = {key: _answer_bytes(answers) for key, answers in self._answers.items()}
        total = sum(sizes.values())
        for key in list(self._answers):
            if total <= MAX_KEPT_BYTES:
                return
            if key != keep and sizes[key]:
                total -= sizes[key]
                del self._answers[key]

    def _answered(
        self, model: ModelFile, runtime: str, samples: SampleSet, threads: int, batch: int, stream: Stream | None
    ) -> Answers:  # fmt: skip
        asked, answers = self._sample_file(samples), self._new("answers.npz")
        args = self._run_args(model, runtime, samples=asked, outputs=answers, threads=threads) | {"batch": batch}
        if stream is not None:
            args |= {
                "feedback": {str(position): name for position, name in stream.feedback},
                "steps": stream.steps,
                "each": stream.each,
            }
        outcome = self.sandbox.execute("run_model", args, what=f"running the model in {runtime}")
        specs = _specs(outcome.answer["outputs"])
        arrays = read_arrays(answers)
        answers.unlink()
        outputs = {spec.name: arrays[output_key(position)] for position, spec in enumerate(specs)}
        return Answers(
            outputs=outputs, inputs=_specs(outcome.answer["inputs"]), specs=specs, runtime=runtime,
            version=str(outcome.answer["version"]), nonfinite=dict(outcome.answer["nonfinite"]),
        )  # fmt: skip

    def measure(self, model: ModelFile, runtime: str, samples: SampleSet, *, threads: int) -> Measured:
        """Return latency and peak memory of a process that holds only this runtime and model; measured once a job."""
        memo = (model.sha256, runtime, threads)
        return _once(self._measured, memo, lambda: self._measure(model, runtime, samples, threads))

    def _measure(self, model: ModelFile, runtime: str, samples: SampleSet, threads: int) -> Measured:
        asked = self._new("one.npz")
        save_arrays(asked, samples.take(np.array([0])).arrays)
        args = self._run_args(model, runtime, samples=asked, outputs=None, threads=threads) | {"timed_runs": TIMED_RUNS}
        outcome = self.sandbox.execute("run_model", args, what=f"measuring the model in {runtime}")
        p50, p95 = outcome.answer["latency_ms"]
        return Measured(
            (float(p50), float(p95)), outcome.peak_rss_bytes, float(outcome.answer["cold_start_ms"]),
            int(outcome.answer["arena_bytes"]),
        )  # fmt: skip

    def work(self, model: ModelFile, kind: str, samples: SampleSet, inputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
        """Return what one run does (`cost.work`), for cost models; empty where it cannot be counted. kind: onnx, ort or tflite."""

        def counted() -> dict[str, Any]:
            asked = self._new("counted.npz")
            save_arrays(asked, samples.take(np.array([0])).arrays)
            path = model.facts.get("made_of", model.path)
            args = {
                "model": str(path), "format": kind, "samples": str(asked), "inputs": msgspec.to_builtins(inputs),
            }  # fmt: skip
            return dict(self.sandbox.build("count_work", args, what="counting the work of the model").answer["work"])

        try:
            return _once(self._counted, (model.sha256, kind), counted)
        except ConversionError:
            return {}  # a bundle without an estimate is still a good bundle

    def simplified(
        self, model: ModelFile, recipe: Recipe, shapes: dict[str, list[int]], samples: SampleSet
    ) -> ModelFile:
        """Return the simplified model; its facts gain `passes`. Raises TransformError, CrashedError …"""
        memo = f"simplify:{model.sha256}:{recipe.upgrade_opset}:{recipe.fold}:{sorted(shapes.items())}"

        def made() -> ModelFile:
            asked, out = self._new("probe.npz"), self._new("base.onnx")
            save_arrays(asked, samples.take(np.arange(min(PROBES, samples.n))).arrays)
            args = {
                "model": str(model.path), "samples": str(asked), "shapes": shapes, "upgrade": recipe.upgrade_opset,
                "fold": recipe.fold, "out": str(out),
            }  # fmt: skip
            answer = self.sandbox.build("onnx_simplify", args, what="simplifying the model").answer
            return self._file(out, answer["facts"] | {"passes": answer["passes"]})

        return _once(self._made, memo, made)

    def compiled(self, base: ModelFile, runtime: str, io_dtype: str = "float32") -> ModelFile:
        """Return the `.tflite` file that our compiler makes of an ONNX model for a runtime (`litert` or `tflite`).

        io_dtype: float32, or int8 or uint8 for the edges of a source that is quantized already.

        Raises UnsupportedOperatorError, OperatorNotCompiledError, DynamicShapeError, CrashedError …
        """

        def made() -> ModelFile:
            out = self._new("compiled.tflite")
            args = {"model": str(base.path), "runtime": runtime, "io_dtype": io_dtype, "out": str(out)}
            facts = self.sandbox.build("tflite_compile", args, what="compiling the model to TFLite").answer
            # A smaller form is made from the compiler's graph, not from the file: it needs the source and the runtime again.
            return as_compiled(self._file(out, facts), runtime, of=base)

        return _once(self._made, f"compile:{base.sha256}:{runtime}:{io_dtype}", made)

    def candidate(
        self, base: ModelFile, spec: CandidateSpec, calibration: SampleSet | None, inputs: tuple[TensorSpec, ...]
    ) -> ModelFile:
        """Return the model that `spec` makes from `base`. Raises TransformError, CrashedError …"""
        # The same float file may be compiled for two runtimes, which have different int8 kernels.
        runtime = base.facts.get("compiled_from", {}).get("runtime", "")
        memo = f"candidate:{base.sha256}:{runtime}:{msgspec.json.encode(spec, order='sorted').decode()}"
        return _once(self._made, memo, lambda: self._candidate(base, spec, calibration, inputs))

    def _candidate(
        self, base: ModelFile, spec: CandidateSpec, calibration: SampleSet | None, inputs: tuple[TensorSpec, ...]
    ) -> ModelFile:
        if spec.method == "none":
            return base
        if "compiled_from" in base.facts:
            return self._compiled_candidate(base, spec, calibration)
        model, seen = base.path, None
        if calibration is not None and (spec.method == "static" or spec.correct_bias):
            ready = self._prepared(base, spec, calibration, inputs)
            model, seen = ready.model.path, str(ready.calibration)
        out = self._new("candidate.onnx")
        args = {"model": str(model), "spec": msgspec.to_builtins(spec), "calibration": seen, "out": str(out)}
        outcome = self.sandbox.build("onnx_candidate", args, what=f"making the candidate {spec.id}")
        return self._file(out, outcome.answer["facts"])

    def ort_format(self, file: ModelFile) -> ModelFile:
        """Return an ONNX file in onnxruntime's own format; its facts gain `slow` and `made_of`. Raises TransformError, CrashedError …"""

        def made() -> ModelFile:
            out = self._new("candidate.ort")
            args = {"model": str(file.path), "out": str(out)}
            answer = self.sandbox.build("onnx_ort_format", args, what="writing onnxruntime's own format").answer
            # What a run does is counted from the ONNX file: nothing else reads a .ort file.
            return self._file(out, answer["facts"] | {"slow": answer["slow"], "made_of": str(file.path)})

        return _once(self._made, f"ort:{file.sha256}", made)

    def _compiled_candidate(self, base: ModelFile, spec: CandidateSpec, calibration: SampleSet | None) -> ModelFile:
        """Return the form of a compiled TFLite file that `spec` names, made of the compiler's own graph."""
        asked = seen = None
        if calibration is not None and (spec.method == "static" or spec.correct_bias):
            asked, seen = str(self._sample_file(calibration)), str(self._seen_folder(calibration))
        out = self._new("candidate.tflite")
        asking = {"spec": msgspec.to_builtins(spec), "calibration": asked, "seen": seen, "out": str(out)}
        args = base.facts["compiled_from"] | asking
        return self._file(
            out, self.sandbox.build("tflite_candidate", args, what=f"making the candidate {spec.id}").answer
        )

    def _prepared(
        self, base: ModelFile, spec: CandidateSpec, calibration: SampleSet, inputs: tuple[TensorSpec, ...]
    ) -> Prepared:
        """Return the model with names, shapes and ranges. Running it on every sample takes long and is done once.

        An equalised model is always prepared behind the plain one, so that a recipe of it alone gives the same bytes.
        """

        def made() -> Prepared:
            lean = msgspec.structs.replace(spec, equalise=False)
            plain = str(self._prepared(base, lean, calibration, inputs).calibration) if spec.equalise else None
            out, seen = self._new("prepared.onnx"), self._new("calibration.npz")
            args = {
                "model": str(base.path), "spec": msgspec.to_builtins(spec), "samples": str(self._sample_file(calibration)),
                "inputs": msgspec.to_builtins(inputs), "out": str(out), "calibration": str(seen), "plain": plain,
            }  # fmt: skip
            answer = self.sandbox.build("onnx_prepare", args, what="calibrating the model", patience=_LONG).answer
            return Prepared(self._file(out, answer), seen)

        memo = f"{base.sha256}:{spec.equalise}:{spec.calibration}:{spec.per_channel}"
        return _once(self._ready, memo, made)

    def sensitivity(
        self, base: ModelFile, spec: CandidateSpec, calibration: SampleSet, inputs: tuple[TensorSpec, ...], *,
        metric: Any, max_drop: float, max_bytes: int,
    ) -> Found:  # fmt: skip
        """Return which layers `spec` (method mixed) should leave out. metric: as `Judge` takes it.

        Raises TransformError when no choice within `max_bytes` holds."""

        def compiled() -> Found:
            args = base.facts["compiled_from"] | {
                "spec": msgspec.to_builtins(spec), "samples": str(self._sample_file(calibration)),
                "seen": str(self._seen_folder(calibration)), "metric": metric, "max_drop": max_drop, "max_bytes": max_bytes,
            }  # fmt: skip
            what = "ranking the layers by what int8 costs"
            answer = self.sandbox.build("tflite_sensitivity", args, what=what, patience=_LONG).answer
            return msgspec.convert(answer, Found)

        def found() -> Found:
            ready = self._prepared(base, spec, calibration, inputs)
            args = {
                "model": str(ready.model.path), "calibration": str(ready.calibration), "spec": msgspec.to_builtins(spec),
                "samples": str(self._sample_file(calibration)), "inputs": msgspec.to_builtins(inputs), "metric": metric,
                "max_drop": max_drop, "max_bytes": max_bytes,
            }  # fmt: skip
            what = "ranking the layers by what int8 costs"
            answer = self.sandbox.build("onnx_sensitivity", args, what=what, patience=_LONG).answer
            return msgspec.convert(answer, Found)

        made_for = base.facts.get("compiled_from", {}).get("runtime", "")
        memo = f"{base.sha256}:{made_for}:{msgspec.json.encode(spec, order='sorted').decode()}:{metric}:{max_drop}:{max_bytes}"
        return _once(self._found, memo, compiled if made_for else found)

    def user_metric(
        self, function: str, candidate: dict[str, Array], reference: dict[str, Array], labels: dict[str, Array]
    ) -> tuple[float, float]:
        """Return (value, baseline) of a user's metric. Raises MetricError."""
        paths = {}
        for role, arrays in (("candidate", candidate), ("reference", reference), ("labels", labels)):
            paths[role] = self._new(f"{role}.npz")
            save_arrays(paths[role], {name or "y": array for name, array in arrays.items()})
        args = {"function": function} | {role: str(path) for role, path in paths.items()}
        answer = self.sandbox.execute("user_metric", args, what=f"computing the metric {function}").answer
        return float(answer["value"]), float(answer["baseline"])

    def _run_args(
        self, model: ModelFile, runtime: str, *, samples: Path | None, outputs: Path | None, threads: int = 1
    ) -> dict[str, Any]:
        return {
            "runtime": runtime, "model": str(model.path), "threads": threads, "samples": str(samples) if samples else None,
            "outputs": str(outputs) if outputs else None, "timed_runs": 0,
        }  # fmt: skip

    def _sample_file(self, samples: SampleSet) -> Path:
        """Return the file that holds `samples`, written once: data sets are large and every candidate reads the same."""
        known = self._sample_files.get(id(samples))
        if known is None:
            path = self._new("samples.npz")
            save_arrays(path, samples.arrays)
            # The set is kept next to its file, so that its id is not given to another.
            known = self._sample_files[id(samples)] = (samples, path)
        return known[1]

    def _seen_folder(self, samples: SampleSet) -> Path:
        """Return where the steps that compile a model keep what these samples showed of it (`tflite.quantize.calibration`)."""
        return self._sample_file(samples).with_suffix(".seen")

    def _new(self, name: str) -> Path:
        self._files += 1
        return self.folder / f"{self._files:04d}-{name}"

    def _file(self, path: Path, facts: dict[str, Any]) -> ModelFile:
        data = path.read_bytes()
        return ModelFile(path, sha256_hex(data), len(data), facts)


def _reading_s(upload: Path) -> int:
    """Return how many seconds reading a file or folder may take: a small file that takes long was made to take long."""
    paths = upload.rglob("*") if upload.is_dir() else [upload]
    return READING_S + sum(path.lstat().st_size for path in paths if path.exists()) // READING_BYTES_S


def refuse_empty(answers: Answers, what: str) -> None:
    """Raise TransformError when an output holds no values: nothing could be compared, and nothing would be served."""
    for name, array in answers.outputs.items():
        if not array.size:
            raise TransformError(
                f"{what} answers with an empty output {name!r} of the shape {list(array.shape[1:])}",
                next_step="export the model with dimensions of at least 1, or open ones; --shape fixes open ones",
            )


def refuse_nonfinite(answers: Answers, what: str) -> None:
    """Raise NotFiniteError when a model answered NaN or infinity."""
    for name, count in answers.nonfinite.items():
        raise NotFiniteError(
            f"{what} answers with NaN or infinity: {count} values of output {name!r} on {answers.runtime} {answers.version}",
            next_step="check the model's weights and the scale of its input",
        )


def _specs(data: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(msgspec.convert(data, list[TensorSpec]))


def _answer_bytes(answers: Answers | ConversionError) -> int:
    return sum(array.nbytes for array in answers.outputs.values()) if isinstance(answers, Answers) else 0


def _once(kept: dict[K, T | ConversionError], key: K, make: Callable[[], T]) -> T:
    """Return what `make` returned or raise what it raised; it is called only for a key that is not kept yet."""
    if key not in kept:
        try:
            kept[key] = make()
        except ConversionError as error:
            kept[key] = error
    result = kept[key]
    if isinstance(result, ConversionError):
        raise result
    return result
