"""Source + profiles + recipe -> bundles + report. Nothing is printed; progress goes to a listener.

The stages, in order: import (once), then for each profile: validate, simplify, quantize, gate, measure, bundle. An unusable
source or data ends the whole conversion (`SourceError`); anything else refuses one profile and the next one goes on.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from edgefleet_converters import errors
from edgefleet_converters.accuracy.parent_comparison import ComparisonRow, compared
from edgefleet_converters.c_array import c_array_files
from edgefleet_converters.candidate_search import CandidateListener, Chosen, Subject, search
from edgefleet_converters.check.accelerator_placement import board_facts
from edgefleet_converters.check.budget import over_storage
from edgefleet_converters.check.compat import (
    check_backend,
    check_format,
    check_io_types,
    check_shapes,
    check_versions,
    compiles,
    edge_dtype,
    oldest_runtime,
)
from edgefleet_converters.check.operators import check_nodes
from edgefleet_converters.check.user_metric import is_user_metric
from edgefleet_converters.drift_reference import add_reference
from edgefleet_converters.evaluation import (
    Evaluation,
    doubts,
    known_lengths,
    need_data,
    prepare_evaluation,
    run_shapes,
    source_answers,
    with_plan,
)
from edgefleet_converters.gate import check_runtimes, hold_compiled
from edgefleet_converters.importance.importance_report import ImportanceRow, document_of
from edgefleet_converters.importance.measurement import importance_of
from edgefleet_converters.job_steps import Answers, JobSteps, ModelFile, as_compiled
from edgefleet_converters.pack import Contents, ModelFormat, build_bundle
from edgefleet_converters.recipe import Recipe, default_recipe, load_recipe
from edgefleet_converters.report import (
    PASSED,
    UNPROVEN,
    BundleRow,
    CandidateRow,
    ConversionReport,
    ProfileReport,
    RefusedRow,
    best_so_far,
    host_facts,
    unproven,
    without_bounds,
)
from edgefleet_converters.report_html.page import render
from edgefleet_converters.request import ConversionRequest
from edgefleet_converters.result_cache import kept_report, key_of
from edgefleet_converters.sandbox import Sandbox
from edgefleet_converters.search_budget import STOP_NAME
from edgefleet_converters.sidefiles import read_side_files
from edgefleet_converters.source import FoundSource
from edgefleet_converters.tflite.quantize.candidate_recipe import own_recipe, tflite_recipe
from edgefleet_profiles.number_format import size
from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.digest import sha256_hex
from edgefleet_protocol.ids import ModelName, ProfileName, Version, target_path
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import is_batched

Event = dict[str, Any]
Listener = Callable[[Event], None]

_MOST_ROWS: Final = 10_000
"""Of the hold-out that the report names."""
_GROWN_RATIO: Final = 1.5
"""A model that constant folding makes larger by more than this stays unfolded: tables that a few nodes compute are no gain."""
_BY_CHANCE: Final = {errors.TimedOutError.code, errors.OutOfMemoryError.code, errors.CrashedError.code}
"""Refusals that a less busy machine may not give: they are not kept."""
_STAGE_PCT: Final = {
    "import": 5, "validate": 15, "simplify": 25, "compile": 35, "quantize": 40, "gate": 60, "bundle": 95, "explain": 97,
}  # fmt: skip


def convert(request: ConversionRequest, listener: Listener) -> ConversionReport:
    """Return the report of a conversion and write bundles and `report.json` and `report.html` into `request.out_dir`.

    Raises a SourceError when no profile can be served because of the upload or the data. Blocks for seconds to minutes.
    """
    request.out_dir.mkdir(parents=True, exist_ok=True)
    key = _key(request)
    kept = kept_report(request.out_dir, key) if key else None
    if kept is not None:
        _write_report(request.out_dir, kept)
        _tell_again(kept, listener)
        return kept
    with Sandbox() as sandbox, tempfile.TemporaryDirectory(prefix="ef-convert-") as folder:
        stop = request.out_dir / STOP_NAME
        stop.unlink(missing_ok=True)  # of an earlier conversion
        workshop = JobSteps(sandbox, Path(folder), stop)
        return _Conversion(request, listener, workshop).run(key)


def _key(request: ConversionRequest) -> str:
    """Return the key under which the result may be kept; empty when none can be made.

    A metric of the user's own is code that no digest here covers; a file that cannot be read is reported by what needs it.
    """
    if request.options.metric is not None and is_user_metric(request.options.metric):
        return ""
    try:
        return key_of(request)
    except OSError:
        return ""


def _tell_again(report: ConversionReport, listener: Listener) -> None:
    for row in report.profiles:
        if row.bundle is not None:
            listener({"type": "bundle", **msgspec.to_builtins(row.bundle)})
        if row.refused is not None:
            listener({"type": "refused", **msgspec.to_builtins(row.refused)})


@dataclass(frozen=True)
class _Prepared:
    """A source with its data, as one runtime sees it."""

    evaluation: Evaluation
    reference: Answers
    side_files: dict[str, bytes]
    accepted: list[str]
    drift_reference: dict[str, Any]


class _Conversion:
    """One conversion on its way."""

    def __init__(self, request: ConversionRequest, listener: Listener, workshop: JobSteps) -> None:
        self._request = request
        self._listener = listener
        self._workshop = workshop
        self._prepared: dict[str, _Prepared | errors.RefusedError] = {}
        self._source_sha256 = ""

    def run(self, key: str) -> ConversionReport:
        """Import the source, then serve each profile. key: of `result_cache`, stands in the report."""
        request = self._request
        given = load_recipe(Path(request.data.recipe)) if request.data.recipe else None
        self._say("", "import", f"reading {request.source.name}")
        with self._workshop.stage("import"):
            found = self._workshop.find(request.source)
            model = self._workshop.import_model(found, request.options, request.tools_dir)
        self._source_sha256 = found.sha256
        report = ConversionReport(
            model=request.model,
            version=request.version,
            source={"sha256": found.sha256, "format": found.format, **_shown(model.facts)},
            options=msgspec.to_builtins(request.options),
            host=host_facts(),
            key=key,
        )
        for profile in request.profiles:
            report.profiles.append(self._serve(profile, found, model, given))
        report.data = self._data_facts()
        if request.options.explain:
            report.importance = document_of(self._importance(found, model, given))
        if request.data.parent is not None:
            report.comparison = document_of(self._comparison(found, model, given, Path(request.data.parent)))
        # What a clock or a person ended may end otherwise next time.
        if any(row.code in _BY_CHANCE for row in report.refused) or any(row.search_ended for row in report.profiles):
            report.key = ""
        _write_report(request.out_dir, report)
        return report

    def _serve(
        self, profile: HardwareProfile, found: FoundSource, model: ModelFile, given: Recipe | None
    ) -> ProfileReport:
        """Return the report of one profile: a bundle or a refusal."""
        row = ProfileReport(profile=profile.name)
        self._workshop.stages_s = {}
        try:
            self._say(profile.name, "validate", f"checking the model against {profile.name}")
            with self._workshop.stage("validate"):
                check_backend(profile)
                check_format(profile, found.format)
                is_shrunk = found.format == "tflite" and not model.facts["kept"]
                if found.format == "tflite" and not (is_shrunk and profile.quant.mode == "required"):
                    check_nodes(profile, model.facts)
                check_runtimes(self._workshop, profile)
                is_lite = found.format == "tflite" or compiles(profile, found.format)
                standard = tflite_recipe if is_lite else default_recipe
                recipe = given or standard(profile, seed=self._request.options.seed)
                prepared = self._prepare(profile, found, model, recipe)
                io = prepared.reference.inputs, prepared.reference.specs
                check_io_types(profile, *io, is_compiled=is_shrunk or compiles(profile, found.format))
            if compiles(profile, found.format):
                row.bundle = self._compiled(profile, model, prepared, recipe, row)
            elif found.format == "onnx":
                row.bundle = self._onnx(profile, model, prepared, recipe, row)
            else:
                row.bundle = self._tflite(profile, model, prepared, recipe, row)
            row.bundle = msgspec.structs.replace(row.bundle, search_ended=row.search_ended)
            self._listener({"type": "bundle", **msgspec.to_builtins(row.bundle)})
        except errors.SourceError:
            raise
        except errors.ConversionError as error:
            row.refused = RefusedRow(profile=profile.name, code=error.code, reason=error.message, next=error.next_step)
            self._listener({"type": "refused", **msgspec.to_builtins(row.refused)})
        if row.bundle is not None and not row.bundle.metric.is_measured:
            row.candidates = unproven(row.candidates)
        row.stages_s = {name: round(value, 3) for name, value in self._workshop.stages_s.items()}
        return row

    def _onnx(
        self, profile: HardwareProfile, model: ModelFile, prepared: _Prepared, recipe: Recipe, row: ProfileReport
    ) -> BundleRow:
        evaluation, reference = prepared.evaluation, prepared.reference
        shapes = _fixed_shapes(profile, reference.inputs, evaluation) | recipe.shapes
        self._say(profile.name, "simplify", "folding constants")
        with self._workshop.stage("simplify"):
            base = self._workshop.simplified(model, recipe, shapes, evaluation.samples)
            if recipe.fold and base.bytes > _GROWN_RATIO * model.bytes:
                plain = msgspec.structs.replace(recipe, fold=False)
                lean = self._workshop.simplified(model, plain, shapes, evaluation.samples)
                base = min(base, lean, key=lambda file: file.bytes)
        row.passes = base.facts["passes"]
        check_versions(profile, base.facts["opset"], base.facts["ir"])
        base_inputs = tuple(msgspec.convert(base.facts["inputs"], list[TensorSpec]))
        check_shapes(profile, base_inputs)
        self._say(profile.name, "quantize", "making candidates")
        subject = Subject(model, base, evaluation, reference, profile, recipe, self._request.options)
        chosen = search(self._workshop, subject, row, self._candidate_listener(profile, base.bytes))
        kind: ModelFormat = "ort" if chosen.file.path.suffix == ".ort" else "onnx"
        return self._bundle(profile, chosen, prepared, recipe, base.bytes, kind)

    def _compiled(
        self, profile: HardwareProfile, model: ModelFile, prepared: _Prepared, recipe: Recipe, row: ProfileReport
    ) -> BundleRow:
        """An ONNX model for a TFLite runtime: simplified, compiled, and held against the original's own answers."""
        evaluation, reference = prepared.evaluation, prepared.reference
        shapes = _fixed_shapes(profile, reference.inputs, evaluation, needed=True) | recipe.shapes
        self._say(profile.name, "simplify", "folding constants")
        with self._workshop.stage("simplify"):
            base = self._workshop.simplified(model, recipe, shapes, evaluation.samples)
        check_shapes(profile, tuple(msgspec.convert(base.facts["inputs"], list[TensorSpec])))
        self._say(profile.name, "compile", f"compiling to TFLite for {profile.runtime.name}")
        with self._workshop.stage("compile"):
            file = self._workshop.compiled(base, oldest_runtime(profile), edge_dtype(profile))
        row.passes = [*base.facts["passes"], *file.facts["passes"]]
        subject = Subject(model, file, evaluation, reference, profile, recipe, self._request.options)
        if not file.facts["is_carried"]:
            with self._workshop.stage("gate"):
                hold_compiled(self._workshop, file, oldest_runtime(profile), subject.judged)
        self._say(profile.name, "quantize", "making candidates")
        chosen = search(self._workshop, subject, row, self._candidate_listener(profile, file.bytes))
        return self._bundle(profile, chosen, prepared, recipe, file.bytes, "tflite")

    def _tflite(
        self, profile: HardwareProfile, model: ModelFile, prepared: _Prepared, recipe: Recipe, row: ProfileReport
    ) -> BundleRow:
        """A float TFLite file: as it is, and the smaller forms of it. Any other file is offered as it is, which is said."""
        check_shapes(profile, prepared.reference.inputs)
        kept, base = model.facts["kept"], model
        own = own_recipe(recipe, model.facts, self._request.options.precision)
        if kept:
            row.passes = [{"name": "smaller-forms", "outcome": "skipped", "reason": kept}]
        else:
            base = as_compiled(model, oldest_runtime(profile))
        what = f"served as it is: {kept}" if kept else "making candidates"
        self._say(profile.name, "quantize", what)
        subject = Subject(model, base, prepared.evaluation, prepared.reference, profile, own, self._request.options)
        chosen = search(self._workshop, subject, row, self._candidate_listener(profile, model.bytes))
        return self._bundle(profile, chosen, prepared, own, model.bytes, "tflite")

    def _prepare(self, profile: HardwareProfile, found: FoundSource, model: ModelFile, recipe: Recipe) -> _Prepared:
        """Return data and the source's own answers; done once for each reference runtime."""
        runtime = "ort" if found.format == "onnx" else self._tflite_reference(profile)
        memo = f"{runtime}:{recipe.seed}:{recipe.golden_vectors}:{recipe.calibration_samples}"
        if memo not in self._prepared:
            try:
                self._prepared[memo] = self._prepare_for(runtime, model, found, recipe)
            except errors.RefusedError as error:
                self._prepared[memo] = error
        prepared = self._prepared[memo]
        if isinstance(prepared, errors.RefusedError):
            raise prepared
        return prepared

    def _prepare_for(self, runtime: str, model: ModelFile, found: FoundSource, recipe: Recipe) -> _Prepared:
        inputs, outputs = self._workshop.tensors(model, runtime)
        _refuse_strings(inputs, outputs)
        files = self._request.data
        need_data(files, self._request.options.metric)
        brought = {**model.facts, **model.facts.get("imported", {})}
        side_files = read_side_files(
            files, inputs, outputs, brought.get("labels", ()), own_columns=brought.get("features", ())
        )
        lengths = known_lengths(self._workshop, model, found, files, inputs, recipe)
        evaluation = prepare_evaluation(files, inputs, outputs, recipe, lengths)
        reference = source_answers(self._workshop, model, runtime, evaluation)
        evaluation = with_plan(evaluation, reference, model.facts.get("ends", ()), self._request.options)
        accepted = doubts(self._workshop, model, evaluation, reference, self._request.options)
        drift = add_reference(self._workshop, model, reference, evaluation, files, side_files)
        return _Prepared(evaluation, reference, side_files, accepted, drift)

    def _importance(self, found: FoundSource, model: ModelFile, given: Recipe | None) -> ImportanceRow:
        """Return which inputs matter: of the source, so once for all profiles, whether they were served or refused."""
        self._say(self._request.profiles[0].name, "explain", "measuring which inputs matter")
        try:
            known = self._any_prepared(found, model, given)
        except errors.ConversionError as error:
            return ImportanceRow(why=f"it was not measured: {error.message}")
        return importance_of(
            self._workshop, model, known.reference, known.evaluation, known.side_files,
            shap=self._request.options.shap, tools=self._request.tools_dir,
        )  # fmt: skip

    def _comparison(self, found: FoundSource, model: ModelFile, given: Recipe | None, path: Path) -> ComparisonRow:
        """Return how the source does next to its parent."""
        self._say(self._request.profiles[0].name, "explain", "asking the parent the same")
        try:
            known, source = self._any_prepared(found, model, given), self._workshop.find(path)
            parent = self._workshop.import_model(source, self._request.options, self._request.tools_dir)
        except errors.ConversionError as error:
            return ComparisonRow(why=f"the parent cannot be asked: {error.message}")
        return compared(self._workshop, model, parent, known.reference, known.evaluation)

    def _any_prepared(self, found: FoundSource, model: ModelFile, given: Recipe | None) -> _Prepared:
        """Return the data with the source's own answers, of whatever runtime. Raises a ConversionError."""
        prepared = next((one for one in self._prepared.values() if isinstance(one, _Prepared)), None)
        profile, seed = self._request.profiles[0], self._request.options.seed
        return prepared or self._prepare(profile, found, model, given or default_recipe(profile, seed=seed))

    def _tflite_reference(self, profile: HardwareProfile) -> str:
        """Return the runtime whose answers a TFLite file is held against: LiteRT where it is here, else the profile's own.

        tflite-runtime 2.14 answers some newer files wrongly without any error; only a second runtime shows that.
        """
        try:
            self._workshop.runtime_version("litert")
        except errors.RuntimeUnavailableError:
            return profile.runtime.name
        return "litert"

    def _bundle(
        self, profile: HardwareProfile, chosen: Chosen, prepared: _Prepared, recipe: Recipe, fp32_bytes: int,
        kind: ModelFormat,
    ) -> BundleRow:  # fmt: skip
        """Write the bundle file and return its row."""
        request = self._request
        self._say(profile.name, "bundle", f"{chosen.spec.precision}, {size(chosen.file.bytes)}")
        with self._workshop.stage("bundle"):
            work = self._workshop.work(chosen.file, kind, prepared.evaluation.samples, chosen.passed.answers.inputs)
            data = build_bundle(
                Contents(
                    model=request.model, version=request.version, profile=profile, file=chosen.file, format=kind,
                    precision=chosen.spec.precision, inputs=chosen.passed.answers.inputs,
                    outputs=chosen.passed.answers.specs, proofs=chosen.passed.proofs, golden=chosen.golden,
                    recipe=msgspec.structs.replace(recipe, candidates=[chosen.spec]),
                    source_sha256=self._source_sha256,
                    side_files=prepared.side_files | c_array_files(profile, chosen.file, chosen.measured.arena_bytes),
                    report=self._report_of(profile, chosen, prepared, fp32_bytes) | {"work": work},
                )
            )  # fmt: skip
            too_much = over_storage(profile, len(data))
            if too_much:
                raise errors.OverBudgetError(too_much, next_step="use a smaller model", needed_bytes=len(data))
            path = request.out_dir / f"{request.model}-{request.version}-{profile.name}.bundle"
            _write_atomically(path, data)
        p50, p95 = chosen.measured.latency_ms
        return BundleRow(
            model=request.model, version=request.version, profile=profile.name, runtime=profile.runtime.name,
            precision=chosen.spec.precision, candidate=chosen.spec.id, bytes=chosen.file.bytes, fp32_bytes=fp32_bytes,
            ratio=round(chosen.file.bytes / fp32_bytes, 4), bundle_bytes=len(data), sha256=sha256_hex(data),
            target=target_path(ModelName(request.model), Version(request.version), ProfileName(profile.name)),
            metric=chosen.passed.metric, parity=chosen.passed.parity,
            latency_ms={"p50": round(p50, 4), "p95": round(p95, 4)}, peak_rss_bytes=chosen.measured.peak_rss_bytes,
            runtimes=list(chosen.passed.proofs),
            verdict=_verdict(profile, prepared.evaluation), path=str(path), work=work,
            latency_shapes=run_shapes(prepared.evaluation, chosen.passed.answers.inputs),
        )  # fmt: skip

    def _report_of(
        self, profile: HardwareProfile, chosen: Chosen, prepared: _Prepared, fp32_bytes: int
    ) -> dict[str, Any]:
        """Return what the manifest holds of metric and parity: only facts that are the same on every run."""
        evaluation = prepared.evaluation
        return {
            "candidate": chosen.spec.id,
            "metric": msgspec.to_builtins(without_bounds(chosen.passed.metric)),
            "max_drop": self._request.options.max_drop,
            "parity": chosen.passed.parity,
            "reference": {"runtime": prepared.reference.runtime, "version": prepared.reference.version},
            "calibration_samples": evaluation.calibration.n if evaluation.calibration is not None else 0,
            "parity_on": evaluation.source,
            "fp32_bytes": fp32_bytes,
            **({"drift_reference": prepared.drift_reference} if prepared.drift_reference else {}),
            **board_facts(profile, chosen.file.facts, chosen.measured.arena_bytes),
        }

    def _candidate_listener(self, profile: HardwareProfile, fp32_bytes: int) -> CandidateListener:
        seen: dict[str, CandidateRow] = {}

        def tell(row: CandidateRow, best: str) -> None:
            if row.metric is not None and not row.metric.is_measured:
                (row,) = unproven([row])
            seen[row.id] = row
            so_far = f"{best_so_far(seen[best], fp32_bytes)}; " if best in seen else ""
            why = f", {row.reason}" if row.reason else ""
            self._say(profile.name, "gate", f"{so_far}{row.id}: {row.verdict}{why}")
            self._listener(
                {
                    "type": "candidate", "profile": profile.name, "id": row.id, "precision": row.precision,
                    "bytes": row.bytes, "metric": msgspec.to_builtins(row.metric), "verdict": row.verdict,
                    "reason": row.reason,
                }
            )  # fmt: skip

        return tell

    def _data_facts(self) -> dict[str, Any]:
        for prepared in self._prepared.values():
            if isinstance(prepared, _Prepared):
                evaluation = prepared.evaluation
                return {
                    "judged_on": evaluation.source,
                    "judging_samples": evaluation.n,
                    "hold_out_samples": evaluation.hold_out.n if evaluation.hold_out is not None else 0,
                    "calibration_samples": evaluation.calibration.n if evaluation.calibration is not None else 0,
                    "taken_out_of_calibration": evaluation.shared,
                    "golden_from_file": evaluation.golden_given,
                    "hold_out_rows": list(evaluation.rows[:_MOST_ROWS]),
                    **({"open_dimensions": dict(evaluation.taken)} if evaluation.taken else {}),
                    **({"drift_reference": prepared.drift_reference} if prepared.drift_reference else {}),
                } | ({"accepted": prepared.accepted} if prepared.accepted else {})
        return {}

    def _say(self, profile: str, stage: str, message: str) -> None:
        self._listener(
            {"type": "progress", "profile": profile, "stage": stage, "message": message, "pct": _STAGE_PCT[stage]}
        )


def _verdict(profile: HardwareProfile, evaluation: Evaluation) -> str:
    if profile.backend.mode != "serve":
        return "prepared"
    return UNPROVEN if evaluation.is_random else PASSED


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in facts.items()
        if key not in ("flow", "ends") and (key != "nodes" or isinstance(value, int))
    }


def _refuse_strings(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    for spec in (*inputs, *outputs):
        if spec.dtype == "string":
            raise errors.TransformError(
                f"tensor {spec.name!r} holds text, which is not served",
                next_step="export the model so that it takes and gives numbers",
            )


def _fixed_shapes(
    profile: HardwareProfile, inputs: tuple[TensorSpec, ...], evaluation: Evaluation, *, needed: bool = False
) -> dict[str, list[int]]:
    """Return fixed input shapes when the profile needs them: one sample, other open dimensions as the samples have them."""
    if profile.quant.dynamic_shapes and not profile.quant.batch_fixed and not needed:
        return {}
    shapes = {}
    for spec in inputs:
        if not any(isinstance(dim, str) for dim in spec.shape):
            continue
        sample = list(evaluation.samples.arrays[spec.name].shape[1:])
        shapes[spec.name] = [1, *sample] if is_batched(spec) else sample
    return shapes


def _write_report(folder: Path, report: ConversionReport) -> None:
    """Write `report.html` and then `report.json`, by which a conversion counts as kept."""
    _write_atomically(folder / "report.html", render(report).encode())
    _write_atomically(folder / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)  # noqa: PTH105 - Path.replace is the same call; this names the guarantee
