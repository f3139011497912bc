"""A real MLflow server on the loopback, with SQLite and artifacts that it hands out itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.tool_environments import MLFLOW, environment

LOG_MODELS = """
import json, sys, mlflow, onnx
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
for line in sys.stdin:
    name, path, alias = json.loads(line)
    with mlflow.start_run() as run:
        mlflow.set_tag("mlflow.source.git.commit", "ab" * 20)
        mlflow.onnx.log_model(onnx.load(path), name="model", registered_model_name=name, pip_requirements=["onnx"])
    version = max(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
    if alias:
        client.set_registered_model_alias(name, alias, str(version))
    sys.stdout.write(json.dumps(["logged", str(version), run.info.run_id]) + "\\n")
    sys.stdout.flush()
"""
"""What a model requires is named: to infer it, MLflow loads each one in another process of its own, 2.6 s of processor time."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without its job runners, seven processes that nothing here needs."""


class MlflowServer:
    """A running server. log: its model versions are made by MLflow's own client, in its environment."""

    def __init__(self, url: str, client: subprocess.Popen[str]) -> None:
        self.url = url
        self._client = client

    def log(self, name: str, model: Path, alias: str = "") -> tuple[str, str]:
        """Log an ONNX model as the next version of a registered model; return version and run id."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(json.dumps([name, str(model), alias]) + "\n")
        self._client.stdin.flush()
        for line in self._client.stdout:  # the client prints remarks of its own, too
            if line.startswith('["logged"'):
                _, version, run_id = json.loads(line)
                return str(version), str(run_id)
        raise AssertionError("MLflow's client ended")

    def api(self, method: str, path: str, **given: str) -> dict[str, object]:
        """Ask the server's REST API directly."""
        how = {"params": given} if method == "GET" else {"json": given}
        answer = httpx.request(method, f"{self.url}/api/2.0/mlflow/{path}", timeout=60, **how)  # type: ignore[arg-type]
        assert answer.is_success, answer.text
        return dict(answer.json())

    def point(self, name: str, alias: str, version: str) -> None:
        """Move an alias."""
        self.api("POST", "registered-models/alias", name=name, alias=alias, version=version)

    def tags(self, name: str, version: str) -> dict[str, str]:
        """Return the tags of a version."""
        found = self.api("GET", "model-versions/get", name=name, version=version)["model_version"]
        assert isinstance(found, dict)
        return {tag["key"]: tag["value"] for tag in found.get("tags", [])}


def keep_database(used: Path, fresh: Path) -> None:
    """Keep a database that nothing was logged to, with MLflow's newest tables."""
    made = fresh.with_name(f"{fresh.name}.{os.getpid()}")
    with contextlib.closing(sqlite3.connect(used)) as source, contextlib.closing(sqlite3.connect(made)) as copy:
        source.backup(copy)
    made.replace(fresh)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """Run a server while the block runs; it takes about 20 s to start."""
    python = environment("mlflow", MLFLOW)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--serve-artifacts",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environ = {**os.environ, **QUIET}
    fresh, used = python.parents[1] / "fresh.db", folder / "mlflow.db"
    if fresh.exists():
        shutil.copyfile(fresh, used)
    log = folder / "mlflow.log"
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 400
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=folder, env=environ, start_new_session=True)
        client = subprocess.Popen(
            [str(python), "-I", "-c", LOG_MODELS, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink,
            text=True, env=environ, start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                if httpx.get(f"{url}/health", timeout=5).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        if not fresh.exists():
            keep_database(used, fresh)
        yield MlflowServer(url, client)
    finally:
        for process in (client, server):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that they started
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
