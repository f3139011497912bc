"""Works on one job: lays the files out, runs the child, checks what came back, stores and signs it.

* The answer of the child is checked again from the bytes of its bundle (names, digest, profile, runtime, every member) before
  anything is stored. Blobs are stored first; then target, bundle, job and release state change in one transaction.
* The first thing that a child says is a digest of what converts there, before it reads a byte of the model. When a job with the
  same content ended well, or was refused for good, under that digest, the child is ended and its result taken over (`bundle_reuse`).
"""

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from edgefleet_protocol.blocks import LEAF_BYTES, leaf_index
from edgefleet_protocol.bundle import BundleError, open_bundle
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.drift.reference import MEMBER
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import target_path
from edgefleet_protocol.manifest import Manifest, ManifestError
from edgefleet_protocol.run_schedule import SCHEDULE_MEMBER
from edgefleet_protocol.sealed_model import KEY_BYTES
from edgefleet_server.conversion import rules
from edgefleet_server.conversion.bundle_reuse import repack
from edgefleet_server.conversion.errors import (
    BadAnswerError,
    ChildRefusalError,
    LeaseLostError,
    StoppedError,
)
from edgefleet_server.conversion.model import ChildAnswer, ClaimedJob, JobState, KnownResult, SandboxLimits
from edgefleet_server.conversion.reports import READ_CHILDS, load_report, read_report, store_report
from edgefleet_server.conversion.sandbox import Child, Converter, workspace
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.db.database import Database
from edgefleet_server.encryption.model_sealer import sealed_bundle
from edgefleet_server.registry.errors import BlobTooLargeError, BlobUnknownError
from edgefleet_server.registry.model import PARENT_DATA, BundleView, JobSpec
from edgefleet_server.registry.service import RegistryService

SEALABLE: Final = frozenset({"ort", "litert", "tflite"})
"""Runtimes of agents; firmware opens no sealed model."""
_log = logging.getLogger(__name__)
_REPORT_PAUSE_S = 0.25
_KEEP_PAUSE_S = 10.0
_READ_BYTES = 1024 * 1024
_HELD_PAUSE_S = 0.5
_END_SEARCH = "end-search"
_TOOLS_TRUSTED_S = 10.0
"""How long nobody is taken to have updated the converters: the profiles of one publication need one child to tell, not each one."""
_DATA_NAMES = {
    "calibration": "calibration.npz",
    "eval": "eval.npz",
    "golden": "golden.npz",
    "reference": MEMBER,
    "labels": "labels.txt",
    "preprocess": "preprocess.json",
    "postprocess": "postprocess.json",
    "privacy": "privacy.json",
    "recipe": "recipe.json",
    "schedule": SCHEDULE_MEMBER,
    PARENT_DATA: "parent.onnx",
}


class Signing(Protocol):
    """What the engine needs of signing."""

    def add_target(self, path: str, length: int, sha256: Sha256, custom: Mapping[str, Any]) -> bool:
        """Sign a bundle as TUF target, in the caller's transaction."""
        ...

    def is_of_a_team(self, model: str) -> bool:
        """Return whether a team signs the bundles of a model, and not this server; so until the caller's transaction ends."""
        ...


@dataclass(frozen=True, slots=True)
class CheckedBundle:
    """A bundle that was opened again and found to be what it says. sealed_key: of one whose model is sealed, as it is stored."""

    path: Path
    sha256: Sha256
    length: int
    leaves: bytes
    manifest: Manifest
    sealed_key: str = ""


class ConversionEngine:
    """One worker's hands. Not thread-safe; :meth:`work` blocks for the whole conversion."""

    def __init__(
        self,
        db: Database,
        jobs: ConversionService,
        registry: RegistryService,
        signing: Signing,
        clock: Clock,
        converter: Converter,
        limits: SandboxLimits,
    ) -> None:
        self._db = db
        self._jobs = jobs
        self._registry = registry
        self._signing = signing
        self._clock = clock
        self._converter = converter
        self._limits = limits
        self._tools: tuple[object, float] = (None, float("-inf"))

    def work(self, job: ClaimedJob, folder: Path, should_stop: Callable[[], bool]) -> None:
        """Bring a claimed job to its end, whatever that is. `folder` is made and removed.

        Raises StoppedError after giving the job back; LeaseLostError when another worker has it.
        """
        _log.info(
            "conversion started", extra={"job": job.id, "release": str(job.spec.ref), "profile": job.spec.profile}
        )
        try:
            with workspace(folder):
                self._convert(job, folder, should_stop)
        except StoppedError:
            self._jobs.give_back(job)
            raise
        except LeaseLostError:
            raise
        except ChildRefusalError as error:
            state = JobState.FAILED if error.child_code in rules.OF_THE_MACHINE else JobState.REFUSED
            self._end_or_repeat(job, state, error.child_code, error)
        except EdgefleetError as error:
            self._end_or_repeat(job, JobState.FAILED, error.code, error)
        except OSError as error:
            self._end(
                job,
                JobState.FAILED,
                "conversion.machine",
                f"the conversion worker could not work: {error}",
                "check free space and memory of the server, then publish again",
            )

    def _end_or_repeat(self, job: ClaimedJob, state: JobState, code: str, error: EdgefleetError) -> None:
        """End a job that gave no bundle, or queue it again when that was the system's doing and attempts are left."""
        reason = error.message
        if code in rules.KILLED:
            if self._jobs.try_again(job):
                _log.warning(
                    "the system ended a conversion; it is tried again", extra={"job": job.id, "n": job.attempt}
                )
                return
            reason = f"{reason}; {job.attempt} attempts ended so"
        self._end(job, state, code, reason, error.next_step)

    def _convert(self, job: ClaimedJob, folder: Path, should_stop: Callable[[], bool]) -> None:
        recent = self._known(job, self._recent_tools())
        if recent is not None and self._take_over(job, folder, recent):
            return
        request = self._lay_out(job.spec, folder)
        reporter = _Reporter(self._jobs, job, self._clock)
        reporter.take({"stage": "start", "message": "starting the converter", "pct": 0})
        known: KnownResult | None = None

        def take(line: Mapping[str, Any]) -> None:
            nonlocal known
            if line.get("type") == "tools":
                self._tools = (line.get("digest"), self._clock.monotonic_s())
                known = self._known(job, line.get("digest"))
            else:
                reporter.take(line)

        def stop_or_keep() -> bool:
            if reporter.keep():
                _ask_to_end(folder / "out" / _END_SEARCH)
            return known is not None or should_stop()

        try:
            answer = self._child(folder).run(request, take, stop_or_keep)
        except StoppedError:
            if known is None:
                raise
            if self._take_over(job, folder, known):
                return
            known = None
            answer = self._child(folder).run(request, reporter.take, stop_or_keep)
        self._take_answer(job, folder, answer)

    def _recent_tools(self) -> object:
        """Return what the last child reported it was made of, None when that is too long ago to be still so."""
        tools, at_s = self._tools
        return tools if self._clock.monotonic_s() - at_s < _TOOLS_TRUSTED_S else None

    def _child(self, folder: Path) -> Child:
        converter = self._converter
        return Child(converter.command, folder, self._limits, self._clock, converter.tools_folder, converter.top)

    def _known(self, job: ClaimedJob, tools: object) -> KnownResult | None:
        """Return how the same content ended before, when that holds for this job too."""
        key = rules.content_key(job.spec, tools, self._limits)
        found = None if key is None else self._jobs.known(job, key)
        return found if found is not None and rules.may_be_known(found.state, found.code) else None

    def _take_over(self, job: ClaimedJob, folder: Path, known: KnownResult) -> bool:
        """End the job as the known one ended; return whether that could be done. Fails closed: else it is converted."""
        try:
            report = load_report(self._registry, known.report)
            if known.state == JobState.REFUSED:
                digest = self._store_known(report, job.spec, None, known)
                self._end(job, JobState.REFUSED, known.code, known.reason, known.next_step, digest)
                return True
            old = self._registry.bundle_for(known.ref, job.spec.profile)
            own = Path(tempfile.mkdtemp(prefix="known-", dir=folder))  # a child writes into `out` and `tmp` only
            # What a clock or a person ended early is searched again for another release.
            is_whole = old is not None and not old.report.get("search_ended")
            made = repack(self._registry, old, job.spec, own) if old is not None and is_whole else None
            if made is None:
                return False
            bundle = check_bundle(job.spec, own, made.report, self._limits.file_bytes)
        except (BundleError, ManifestError, BlobUnknownError, BlobTooLargeError, BadAnswerError, ValueError) as error:
            _log.warning("a known conversion cannot be used", extra={"job": job.id, "error": repr(error)})
            return False
        self._store(job, bundle, made.report, self._store_known(report, job.spec, made.row, known))
        return True

    def _store_known(
        self, report: dict[str, Any] | None, spec: JobSpec, row: Mapping[str, Any] | None, known: KnownResult
    ) -> str:
        _log.info("conversion known", extra={"release": str(spec.ref), "profile": spec.profile, "from": str(known.ref)})
        return store_report(
            self._registry, None if report is None else rules.renamed_report(report, spec.ref, row, known.ref)
        )

    def _lay_out(self, spec: JobSpec, folder: Path) -> dict[str, Any]:
        """Write source and data files into the folder and return the child's request."""
        tools = self._converter.tools_folder
        source = folder / "source"
        for file in spec.files:
            path = source / file.path  # its segments were checked when it was published
            path.parent.mkdir(parents=True, exist_ok=True)
            self._registry.save_blob(file.sha256, path)
        data: dict[str, str | None] = dict.fromkeys(_DATA_NAMES)
        for name, digest in spec.data.items():
            path = folder / "data" / _DATA_NAMES[name]
            try:
                self._registry.save_blob(digest, path)
            except BlobUnknownError:
                if name == PARENT_DATA:  # it was deleted meanwhile: nothing is compared
                    continue
                raise
            data[name] = str(path)
        return {
            "v": 1,
            "model": spec.ref.model,
            "version": spec.ref.version,
            "source": {"path": str(source / spec.files[0].path if spec.kind == "file" else source)},
            "profiles": [dict(spec.profile_facts)],
            "data": data,
            "options": {name: value for name, value in spec.options.items() if name != "seal"} | {"seed": 0},
            "out_dir": str(folder / "out"),
            "tools_dir": None if tools is None else str(tools),
        }

    def _take_answer(self, job: ClaimedJob, folder: Path, answer: ChildAnswer) -> None:
        profile = job.spec.profile
        whole = read_report(folder / "out", profile)
        if (report := answer.bundles.get(profile)) is not None:
            rules.check_row(report)
            bundle = check_bundle(job.spec, folder / "out", report, self._limits.file_bytes)
            if job.spec.options.get("seal"):
                bundle = self._sealed(bundle, Path(tempfile.mkdtemp(prefix="sealed-", dir=folder)))
                report = {**report, "sha256": bundle.sha256, "bundle_bytes": bundle.length}
            self._store(job, bundle, report, store_report(self._registry, whole))
            return
        refusal = answer.refused.get(profile)
        if refusal is None:
            raise BadAnswerError(f"the converter ended without a word on profile {profile}")
        self._end(
            job,
            JobState.REFUSED,
            str(refusal.get("code", "convert.refused")),
            str(refusal.get("reason", "the converter gave no reason")),
            str(refusal.get("next", "")),
            store_report(self._registry, whole),
        )

    def _sealed(self, bundle: CheckedBundle, folder: Path) -> CheckedBundle:
        """Return the bundle with its model sealed, in a folder where no child may write. Raises BadAnswerError for what no device opens."""
        if bundle.manifest.runtime not in SEALABLE:
            raise BadAnswerError(
                f"a model for the runtime {bundle.manifest.runtime} cannot be sealed: no agent opens it there",
                next_step="publish it without --seal, or for other profiles",
            )
        key, path = os.urandom(KEY_BYTES), folder / "sealed.bundle"
        with os.fdopen(os.open(bundle.path, READ_CHILDS), "rb") as plain:
            path.write_bytes(sealed_bundle(open_bundle(plain), key))
            plain.seek(0)
            if _digests(plain)[1] != bundle.sha256:
                raise BadAnswerError("the converter's bundle was changed after it was checked")
        with path.open("rb") as file:
            manifest = open_bundle(file).manifest
            file.seek(0)
            leaves, sha256, length = _digests(file)
        sealed_key = self._registry.fleet_key.seal(key, sha256)
        return CheckedBundle(path, sha256, length, leaves, manifest, sealed_key)

    def _store(self, job: ClaimedJob, bundle: CheckedBundle, report: Mapping[str, Any], whole: str) -> None:
        """Store, sign and record a bundle. report: its row; whole: digest of the conversion's report."""
        spec = job.spec
        sha256 = self._registry.put_blob_file(bundle.path, bundle.sha256)
        leaves = self._registry.put_blob_bytes(bundle.leaves)
        target = target_path(spec.ref.model, spec.ref.version, spec.profile)
        custom = {
            "leaves": leaves,
            "leaf_bytes": LEAF_BYTES,
            "model": spec.ref.model,
            "version": spec.ref.version,
            "profile": spec.profile,
        }
        view = BundleView(
            ref=spec.ref,
            profile=spec.profile,
            target=target,
            sha256=sha256,
            length=bundle.length,
            leaves=leaves,
            runtime=bundle.manifest.runtime,
            precision=bundle.manifest.precision,
            signed_at=self._clock.now(),
            report={name: value for name, value in report.items() if name not in {"type", "path", "signed_at"}},
            sealed_key=bundle.sealed_key,
        )
        view = self._registry.with_forecast(view)
        with self._db.session():
            # Rows are locked in the order of everybody who changes a job: job, then release (a bundle locks its release too).
            is_unsigned = self._signing.is_of_a_team(spec.ref.model)
            if not is_unsigned:
                self._signing.add_target(target, bundle.length, sha256, custom)
            self._jobs.finish(job, JobState.DONE, report=whole)
            (self._registry.unsigned.add if is_unsigned else self._registry.accept_bundle)(view)
            state = self._registry.refresh_state(spec.ref)
        said = "bundle waits for the signatures of its team" if is_unsigned else "bundle signed"
        _log.info(said, extra={"target": target, "sha256": sha256, "release_state": state})

    def _end(self, job: ClaimedJob, state: JobState, code: str, reason: str, next_step: str, report: str = "") -> None:
        with self._db.session():
            self._jobs.finish(job, state, code, reason, next_step, report)
            self._registry.refresh_state(job.spec.ref)
        _log.info("conversion ended", extra={"job": job.id, "state": state, "code": code, "reason": reason})


def check_bundle(spec: JobSpec, out: Path, report: Mapping[str, Any], max_bytes: int) -> CheckedBundle:
    """Open the child's bundle without following links and compare it with the job. Raises BadAnswerError."""
    name = Path(str(report.get("path", ""))).name
    path = out / name
    try:
        descriptor = os.open(path, READ_CHILDS)
    except OSError as error:
        raise BadAnswerError(f"the converter named a bundle {name!r} that cannot be opened: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or not 0 < facts.st_size <= max_bytes:
            raise BadAnswerError(f"the converter's bundle {name!r} is no ordinary file of acceptable size")
        try:
            opened = open_bundle(file)
            opened.verify_members()
        except (BundleError, ManifestError) as error:
            raise BadAnswerError(f"the converter's bundle is not valid ({error.code}): {error.message}") from error
        file.seek(0)
        leaves, sha256, length = _digests(file)
    if opened.manifest.sealed:
        raise BadAnswerError("the converter's bundle says that its model is sealed, which only the server does")
    _compare(spec, opened.manifest, report, sha256)
    return CheckedBundle(path, sha256, length, leaves, opened.manifest)


def _compare(spec: JobSpec, manifest: Manifest, report: Mapping[str, Any], sha256: Sha256) -> None:
    model_bytes = manifest.members[manifest.model_member].length
    facts = {
        "model": (manifest.model, spec.ref.model),
        "version": (manifest.version, spec.ref.version),
        "profile": (manifest.profile, spec.profile),
        "runtime": (manifest.runtime, spec.profile_facts["runtime"]["name"]),
        "sha256": (str(report.get("sha256")), sha256),
        "precision": (report.get("precision"), manifest.precision),
        "bytes": (report.get("bytes"), model_bytes),
    }
    for name, (actual, expected) in facts.items():
        if actual != expected:
            raise BadAnswerError(f"the converter's bundle says {name} {actual!r}, expected {expected!r}")


def _digests(file: BinaryIO) -> tuple[bytes, Sha256, int]:
    digest = hashlib.sha256()
    length = 0

    def chunks() -> Iterator[bytes]:
        nonlocal length
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            length += len(chunk)
            yield chunk

    leaves = leaf_index(chunks())
    return leaves, Sha256(digest.hexdigest()), length


class _Reporter:
    """Passes progress on, at most four times a second within a stage, and keeps the lease while the child is silent."""

    def __init__(self, jobs: ConversionService, job: ClaimedJob, clock: Clock) -> None:
        self._jobs = jobs
        self._job = job
        self._clock = clock
        self._last_s = float("-inf")
        self._seen_s = float("-inf")
        self._ends_search = False
        self._stage = ""

    def take(self, line: Mapping[str, Any]) -> None:
        """Store a progress line. Other kinds of lines are for the converter's own report."""
        stage = str(line.get("stage", ""))
        if not stage:
            return
        now_s = self._clock.monotonic_s()
        if stage == self._stage and now_s - self._last_s < _REPORT_PAUSE_S:
            return
        pct = line.get("pct")
        number = 0.0
        if isinstance(pct, int | float) and not isinstance(pct, bool):
            number = float(max(0, min(100, pct)))  # bounded first: an int may be too large for a float
        self._jobs.report(self._job, stage, str(line.get("message", "")), number)
        self._stage, self._last_s = stage, now_s

    def keep(self) -> bool:
        """Extend the lease when nothing was reported for a while; return whether the search was asked to end.

        Raises LeaseLostError soon after a cancellation.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._seen_s >= _HELD_PAUSE_S:
            self._ends_search = self._jobs.check_held(self._job)
            self._seen_s = now_s
        if now_s - self._last_s >= _KEEP_PAUSE_S:
            self._jobs.keep(self._job)
            self._last_s = now_s
        return self._ends_search


def _ask_to_end(path: Path) -> None:
    """Make the file that asks the child to end its search, without following what the child may have put there."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
