"""An MLflow model registry, by its REST API alone: who is behind an alias, its files, tags written back.

Addresses and credentials are those of MLflow's own client: `MLFLOW_TRACKING_URI`, `MLFLOW_TRACKING_TOKEN` or
`MLFLOW_TRACKING_USERNAME` and `_PASSWORD`, `MLFLOW_TRACKING_SERVER_CERT_PATH`. MLflow is not installed for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx

from edgefleet_cli.core.errors import CliError, UsageError
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.importing.addresses import MlflowAddress, S3Address
from edgefleet_cli.importing.downloads import TIMEOUT, Downloader
from edgefleet_cli.importing.fetch_context import FetchContext, Fetched, HostileNameError, ImportFailedError, place_for

Answer = dict[str, Any]
"""What an MLflow server says: each field is looked at before it counts."""

_API: Final = "/api/2.0/mlflow"
_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_MAX_DEPTH: Final = 8
_MAX_JSON: Final = 8 * 1024 * 1024


class RegistryUnreachableError(ImportFailedError):
    """The MLflow server does not answer; it may later."""

    code = "cli.import_registry"


class NotInRegistryError(ImportFailedError):
    """The registry knows no such model, alias or version."""

    code = "cli.import_unknown"
    exit_code = 5


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model. run_id: of the run that logged it, "" when none did."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


class _Tag(Struct, frozen=True):
    key: Any = None
    value: Any = None


class _Tagged(Struct, frozen=True):
    """What versions and runs have in common here."""

    run_id: str | None = None
    tags: tuple[_Tag, ...] | None = None

    def named(self) -> dict[str, str]:
        """Return the tags by their names."""
        return {str(tag.key): str(tag.value) for tag in self.tags or ()}


class _File(Struct, frozen=True):
    """A file or folder that the server lists. file_size: bytes, also as text."""

    path: str = ""
    is_dir: bool = False
    file_size: int | str | None = None


class _Listing(Struct, frozen=True):
    files: tuple[_File, ...] | None = None


class _Problem(Struct, frozen=True):
    error_code: Any = None
    message: Any = None


class Registry:
    """A registry at one address. Blocking; use as a context manager."""

    def __init__(self, context: FetchContext) -> None:
        env = context.environ
        self._context = context
        self.url = (context.mlflow_url or env.get("MLFLOW_TRACKING_URI") or "").rstrip("/")
        if urlsplit(self.url).scheme not in {"http", "https"}:
            raise UsageError(
                "no MLflow server is named" if not self.url else f"{self.url!r} is not an MLflow server",
                why="neither --mlflow-url nor MLFLOW_TRACKING_URI has an http address",
                next_step="give --mlflow-url http://HOST:5000",
            )
        token, user = env.get("MLFLOW_TRACKING_TOKEN"), env.get("MLFLOW_TRACKING_USERNAME")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            timeout=TIMEOUT,
            verify=_verification(env.get("MLFLOW_TRACKING_SERVER_CERT_PATH")),
            auth=httpx.BasicAuth(user, env.get("MLFLOW_TRACKING_PASSWORD", "")) if user and not token else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def resolve(self, address: MlflowAddress) -> ModelVersion:
        """Return the version that an address stands for now. Raises NotInRegistryError, ImportFailedError."""
        if not address.version:
            answer = self._call("GET", "registered-models/alias", name=address.name, alias=address.alias)
        else:
            answer = self._call("GET", "model-versions/get", name=address.name, version=address.version)
        found = _object(answer, "model_version")
        tagged = struct_of(found, _Tagged)
        return ModelVersion(address.name, _text(found, "version"), tagged.run_id or "", tagged.named())

    def lineage(self, model: ModelVersion, address: MlflowAddress) -> dict[str, str]:
        """Return where a version came from: its run, and the commit that the run was made from."""
        commit = ""
        if model.run_id:
            run = _object(_object(self._call("GET", "runs/get", run_id=model.run_id), "run"), "data")
            commit = struct_of(run, _Tagged).named().get("mlflow.source.git.commit", "")
        facts = {
            "uri": f"mlflow:/{model.name}/{model.version}", "registry": "mlflow", "registry_model": model.name,
            "version": model.version, "alias": address.alias, "run_id": model.run_id, "git_commit": commit,
            "registry_url": self._shown_url(),
        }  # fmt: skip
        return {key: value[:500] for key, value in facts.items() if value}

    def fetch(self, model: ModelVersion, folder: Path) -> Path:
        """Write the files of a version below `folder` and return the folder of the model."""
        answer = self._call("GET", "model-versions/get-download-uri", name=model.name, version=model.version)
        into = folder / "model"
        into.mkdir()
        self._fetch_from(_text(answer, "artifact_uri"), into)
        if not any(into.iterdir()):
            raise ImportFailedError(
                f"version {model.version} of {model.name} has no files",
                why="the registry lists none",
                next_step="log the model again with mlflow.onnx.log_model or mlflow.sklearn.log_model",
            )
        return into

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version. Raises ImportFailedError, also when the credentials may not."""
        self._call("POST", "model-versions/set-tag", name=model, version=version, key=key, value=value)

    def _fetch_from(self, uri: str, into: Path) -> None:
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts" and parts.netloc in {"", urlsplit(self.url).netloc}:
            self._walk(parts.path.strip("/"), "", into, 0)
        elif parts.scheme == "models" and parts.path.startswith("/m-"):
            logged = self._call("GET", f"logged-models/{quote(parts.path.strip('/'), safe='')}")
            self._fetch_from(_text(_object(_object(logged, "model"), "info"), "artifact_uri"), into)
        elif parts.scheme == "runs":
            run_id, _, path = parts.path.strip("/").partition("/")
            info = _object(_object(self._call("GET", "runs/get", run_id=run_id), "run"), "info")
            self._fetch_from(f"{_text(info, 'artifact_uri').rstrip('/')}/{path}", into)
        elif parts.scheme == "s3":
            from edgefleet_cli.importing.s3 import fetch_folder

            fetch_folder(S3Address(parts.netloc, f"{parts.path.strip('/')}/"), into, self._context)
        else:
            raise ImportFailedError(
                f"the registry keeps this version at {parts.scheme or 'a path'}:, which is not read from here",
                why="only artifacts that the MLflow server hands out itself, or that lie in S3, can be fetched",
                next_step="run the MLflow server with --serve-artifacts, or publish the model's folder",
            )

    def _walk(self, root: str, below: str, into: Path, depth: int) -> None:
        """Fetch what the server lists at `root/below`. Names are the server's word: each is checked before it is a path."""
        if depth > _MAX_DEPTH:
            raise HostileNameError(
                f"the folders of this model are more than {_MAX_DEPTH} deep", why=below[:120], next_step="log it again"
            )
        here = f"{root}/{below}" if below else root
        for entry in struct_of(self._get(_ARTIFACTS, {"path": here}), _Listing).files or ():
            name = entry.path.removeprefix(f"{here}/")
            if name.startswith(".") and name.strip(".") and "/" not in name:
                continue  # hidden files are no part of a model, here as in a folder
            inner = f"{below}/{name}" if below else name
            place = place_for(into, inner)
            if entry.is_dir:
                self._walk(root, inner, into, depth + 1)
                continue
            self._context.budget.take_file()
            self._context.budget.announce(int(entry.file_size or 0))
            url = f"{self.url}{_ARTIFACTS}/{quote(f'{root}/{inner}')}"
            Downloader(self._http, self._context.clock, self._context.note, self._headers).fetch(
                url, place, self._context.budget
            )

    def _call(self, method: str, path: str, **given: str) -> Answer:
        return (
            self._get(f"{_API}/{path}", given) if method == "GET" else self._send(method, f"{_API}/{path}", json=given)
        )

    def _get(self, path: str, params: Mapping[str, str]) -> Answer:
        return self._send("GET", path, params=params)

    def _send(self, method: str, path: str, **request: Any) -> Answer:
        try:
            response = self._http.request(method, self.url + path, headers=self._headers, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise RegistryUnreachableError(
                f"cannot reach the MLflow server at {self._shown_url()}",
                why=str(error) or type(error).__name__,
                next_step="check --mlflow-url and that the server runs",
            ) from error
        try:
            answer = response.json() if len(response.content) <= _MAX_JSON else None
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        raise self._problem(response, answer if isinstance(answer, dict) else {})

    def _problem(self, response: httpx.Response, answer: Answer) -> CliError:
        problem = struct_of(answer, _Problem)
        code, message = str(problem.error_code or ""), " ".join(str(problem.message or "").split())[:300]
        if code == "RESOURCE_DOES_NOT_EXIST":
            return NotInRegistryError(
                message or "the registry has no such model",
                why=f"at {self._shown_url()}",
                next_step="check name, alias and version",
            )
        if response.status_code in {401, 403}:
            return ImportFailedError(
                f"the MLflow server answers {response.status_code}",
                why=message or "it wants credentials, or others",
                next_step="set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        if response.status_code >= 500:
            return RegistryUnreachableError(
                f"the MLflow server answers {response.status_code}", why=message or code, next_step="look at its log"
            )
        return ImportFailedError(
            f"the MLflow server answers {response.status_code}",
            why=message or f"it is not an MLflow server's answer: {response.text[:120]!r}",
            next_step="check --mlflow-url",
        )

    def _shown_url(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def fetch_mlflow(address: MlflowAddress, folder: Path, context: FetchContext) -> Fetched:
    """Return the files that an address stands for now. Raises ImportFailedError."""
    with Registry(context) as registry:
        model = registry.resolve(address)
        lineage = registry.lineage(model, address)
        return Fetched(registry.fetch(model, folder), lineage)


def _object(answer: Answer, key: str) -> Answer:
    found = answer.get(key)
    if not isinstance(found, dict):
        raise ImportFailedError(
            f"the answer of the MLflow server has no {key}",
            why="it may be no MLflow server",
            next_step="check --mlflow-url",
        )
    return found


def _text(answer: Answer, key: str) -> str:
    found = answer.get(key)
    if not isinstance(found, str) or not found:
        raise ImportFailedError(
            f"the answer of the MLflow server has no {key}",
            why=f"got {str(found)[:80]!r}",
            next_step="check its version",
        )
    return found


def _verification(ca_file: str | None) -> Any:
    if not ca_file:
        return True
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(
            f"cannot use the CA file {ca_file}", why=str(error), next_step="correct MLFLOW_TRACKING_SERVER_CERT_PATH"
        ) from error
