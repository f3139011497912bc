"""`edgectl retrain worker`: takes a retraining, writes its data set, runs the command, publishes what it left, and says so.

Rules:
1. The lease is renewed all the time. A runner that lost it ends the command and publishes nothing.
2. A runner that is asked to end ends the command and gives the retraining back; one that is killed leaves a lease that runs out. The next
   runner begins again, unless a release of this retraining was published already: then it names that.
3. A server that is away is waited for. What cannot be trained or published is reported as failed, with the last lines of the command.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edgefleet_cli.core import api
from edgefleet_cli.core.errors import ApiError, CliError
from edgefleet_cli.core.files import write_private
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.release.conversion.conversion_options import Conversion, ModelRequest
from edgefleet_cli.release.publisher import Publisher
from edgefleet_cli.render.output import one_line
from edgefleet_cli.retraining.command_child import training
from edgefleet_cli.retraining.held_lease import HeldLease, LeaseLostError
from edgefleet_cli.retraining.parent_release import fetch_parent
from edgefleet_cli.retraining.result_files import (
    DATA_FILES,
    FLAGS,
    OF_THE_PARENT,
    TrainingResultError,
    flags_of,
    model_name,
    next_version,
)
from edgefleet_protocol.errors import EdgefleetError

if TYPE_CHECKING:
    from edgefleet_cli.datasets.model import DataFormat

T = TypeVar("T")
GIVE_UP_S: Final = 3600.0
"""So long a server may be away in the middle of a retraining."""
MOST_VERSIONS: Final = 5
MOST_WHY: Final = 4000
_LISTEN_S: Final = 0.5
_TAKEN: Final = frozenset({"release.exists_different", "release.converting", "release.removed"})
_DEAD: Final = frozenset({"failed", "cancelled"})
Run = api.experiment.Retraining


@dataclass(frozen=True)
class RunnerOrder:
    """What a runner does. key: file of the private capture key; keep: where the folders of its retrainings stay, None: nowhere.

    labels_file: ground truth, read again for each retraining.
    """

    model: str
    key: Path
    command: Sequence[str]
    holder: str
    format_: DataFormat
    keep: Path | None
    every_s: float
    once: bool
    labels_file: Path | None = None


class Runner:
    """Trains one model's retrainings, one after the other."""

    def __init__(self, session: Session, order: RunnerOrder) -> None:
        """Wire the parts. Raises UsageError for a key that cannot be read."""
        from edgefleet_cli.device.captures.capture_files import read_key

        read_key(order.key)
        self._session = session
        self._order = order
        self._note = session.out.note

    def work(self) -> None:
        """Take what waits, and wait for more, until KeyboardInterrupt; with `once` only what waits now. Raises ApiError."""
        retry = ServerRetry(self._note, self._session.clock)
        while True:
            asked = retry.ask(self._lease)
            if asked:
                self._train(asked[0])
            elif asked is not None and self._order.once:
                return
            elif asked is not None:
                self._session.clock.sleep(self._order.every_s)

    def _lease(self) -> list[Reply[api.experiment.LeasedRetraining]]:
        body = api.experiment.LeaseIn(model=self._order.model, holder=self._order.holder)
        found = self._session.api.take("/retrainings:lease", body, api.experiment.LeasedRetraining)
        return [] if found is None else [found]

    def _train(self, leased: Reply[api.experiment.LeasedRetraining]) -> None:
        run = leased.value.retraining
        held = HeldLease(self._session.api, run.id, leased.value.lease, leased.value.lease_s, self._note)
        self._note(f"{run.id}: taken, {run.cause.words}")
        try:
            with held.kept(), self._folder(run.id) as folder:
                write_private(folder / "retraining.json", _json(leased.raw["retraining"]))
                release = self._release(run, leased.raw["retraining"], folder, held)
                held.check()
            self._completed(run, held, release)
        except KeyboardInterrupt:
            held.give_back()
            self._note(f"{run.id}: given back")
            raise
        except LeaseLostError as error:
            self._note(f"{run.id}: {error.message}: {error.why}")
        except (EdgefleetError, OSError) as error:
            self._failed(run, held, error)

    def _release(self, run: Run, raw: dict[str, Any], folder: Path, held: HeldLease) -> str:
        if run.attempts + run.given_back > 1 and (known := self._ask(lambda: self._published(run))):
            self._note(f"{run.id}: {known} was published by an earlier runner")
            return known
        held.say("reading the parent")
        parent = self._ask(lambda: fetch_parent(self._session.api, run.parent, folder / "parent")) if run.parent else {}
        held.say("writing the data set")
        self._write_data_set(run, folder / "data", held)
        write_private(folder / "cause.json", _json(raw.get("cause") or {}))
        out = folder / "out"
        out.mkdir(mode=0o700)
        environment = {
            "EDGEFLEET_RUN": run.id,
            "EDGEFLEET_DATA_SET": str(folder / "data"),
            "EDGEFLEET_PARENT": str(folder / "parent"),
            "EDGEFLEET_CAUSE": str(folder / "cause.json"),
            "EDGEFLEET_OUT": str(out),
        }
        with training(self._order.command, environment, folder / "log", self._session.clock) as process:
            while not process.wait(_LISTEN_S):
                held.say((process.lines or ["training"])[-1])
        held.say("publishing")
        return self._publish(run, out, parent)

    def _write_data_set(self, run: Run, folder: Path, held: HeldLease) -> None:
        if not run.collected.records:
            folder.mkdir(mode=0o700)
            self._note(f"{run.id}: no record was collected; the folder of the data set is empty")
            return
        from edgefleet_cli.datasets.dataset_writer import digest_of
        from edgefleet_cli.datasets.export import ExportOrder, export_data_set
        from edgefleet_cli.datasets.record_source import Wanted

        order = ExportOrder(
            self._order.key, str(folder), self._order.format_, {}, self._order.labels_file,
            is_noted=self._order.keep is not None,
        )  # fmt: skip
        wanted = Wanted(run.model, run=run.id)
        made = self._ask(lambda: export_data_set(self._quiet, wanted, order)).manifest
        count = len(made.records)
        self._note(f"{run.id}: {count} records, {count - made.unlabelled} with a label")
        written = api.experiment.DataSetIn(
            digest=digest_of(made),
            records=count,
            labelled=count - made.unlabelled,
            counts=dict(made.reasons),
            where="" if self._order.keep is None else str(folder.absolute()),
        )
        held.say("training", written)

    def _publish(self, run: Run, out: Path, parent: dict[str, Path]) -> str:
        """Publish what lies in a folder; return the release. Raises TrainingResultError, UsageError, ApiError."""
        names = {path.name for path in out.iterdir()}
        source = out / model_name(names)
        flags, version = flags_of(_read_flags(out / FLAGS)) if FLAGS in names else ({}, "")
        data = {kind: out / name for kind, name in DATA_FILES.items() if name in names}
        data |= {kind: place for kind, place in parent.items() if kind in OF_THE_PARENT and kind not in data}
        seals = bool(flags.pop("seal", False))
        chosen: dict[str, Any] = {"evaluation" if kind == "eval" else kind: place for kind, place in data.items()}
        conversion = Conversion(**flags, **chosen)
        lineage = {"parent": run.parent, "retraining": run.id} if run.parent else {"retraining": run.id}
        taken = self._ask(lambda: self._versions(run.model))
        for _ in range(MOST_VERSIONS):
            named = version or next_version(run.parent.partition("@")[2] or "0", taken)
            request = conversion.request(model=str(source), name=run.model, version=named, lineage=lineage)
            release = self._sent(replace(request, seal=seals), may_differ=bool(version))
            if release is not None:
                self._note(f"{run.id}: published {release.ref}")
                return release.ref
            taken = {*taken, named}
        raise TrainingResultError(
            f"no version of {run.model} is free for this retraining",
            why=f"{MOST_VERSIONS} in a row were taken meanwhile",
            next_step=f'name one in {FLAGS}: {{"version": "…"}}',
        )

    def _sent(self, request: ModelRequest, *, may_differ: bool) -> api.release.Release | None:
        """Publish; return None where the version is another's. may_differ: the command chose it, so that is an error."""
        publisher = Publisher(self._session.api, self._quiet.out, self._session.clock)
        try:
            return self._ask(lambda: publisher.publish(request)).value
        except ApiError as error:
            if may_differ or error.foreign_code not in _TAKEN:
                raise
            return None

    def _versions(self, model: str) -> set[str]:
        return {
            one.value.version for one in self._session.api.pages("/releases", api.release.Release, model=model).replies
        }

    def _published(self, run: Run) -> str:
        """Return the release of this retraining that there is already, "" of none."""
        for one in self._session.api.pages("/releases", api.release.Release, model=run.model).replies:
            if one.value.lineage.get("retraining") == run.id and one.value.state not in _DEAD:
                return one.value.ref
        return ""

    def _completed(self, run: Run, held: HeldLease, release: str) -> None:
        body = api.experiment.CompleteIn(lease=held.lease, release=release)
        try:
            self._ask(lambda: self._session.api.post(f"{held.path}:complete", body, Run))
        except ApiError:
            known = self._ask(lambda: self._session.api.get(held.path, Run)).value
            if known.release != release:  # else an answer was lost on its way, and this was asked twice
                raise
        self._note(f"{run.id}: trained, the result is {release}")

    def _failed(self, run: Run, held: HeldLease, error: Exception) -> None:
        why = error.why if isinstance(error, CliError) else ""
        message = error.message if isinstance(error, EdgefleetError) else str(error)
        code = error.code if isinstance(error, EdgefleetError) else "training.failed"
        next_step = error.next_step if isinstance(error, EdgefleetError) else ""
        body = api.experiment.FailIn(
            lease=held.lease,
            code=code,
            why="\n".join(filter(None, (message, why)))[-MOST_WHY:],
            next_step=next_step[:500],
        )
        self._note(f"{run.id}: failed, {one_line(message)}")
        try:
            self._ask(lambda: self._session.api.post(f"{held.path}:fail", body, Run))
        except EdgefleetError as refused:
            self._note(f"{run.id}: {one_line(refused.message)}")

    def _ask(self, question: Callable[[], T]) -> T:
        """Return the answer of a server that may be away for a while. Raises what the question does."""
        retry = ServerRetry(self._note, self._session.clock, give_up_s=GIVE_UP_S)
        while True:
            answered: list[T] | None = retry.ask(lambda: [question()])
            if answered is not None:
                return answered[0]

    @contextmanager
    def _folder(self, run: str) -> Iterator[Path]:
        """Yield an empty folder of a retraining; only where it is to be kept it stays."""
        if self._order.keep is None:
            with tempfile.TemporaryDirectory(prefix="edgefleet-retrain-") as folder:
                yield Path(folder)
            return
        self._order.keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield Path(tempfile.mkdtemp(prefix=f"{run}-", dir=self._order.keep))

    @property
    def _quiet(self) -> Session:
        """The session without progress and answers: a runner writes its own lines."""
        session = replace(self._session, options=replace(self._session.options, quiet=True))
        session.__dict__["api"] = self._session.api
        return session


def _read_flags(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise TrainingResultError(
            f"{FLAGS} of the training cannot be used", why=str(error), next_step="write an object of JSON there"
        ) from error


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
