"""A real MLflow server on the loopback, with SQLite and artifacts that it hands out itself."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.processes import descendants
from tests.support.tool_environments import MLFLOW, environment

LOG_MODEL = """
import sys, mlflow, onnx
url, name, path, alias = sys.argv[1:]
mlflow.set_tracking_uri(url)
with mlflow.start_run() as run:
    mlflow.set_tag("mlflow.source.git.commit", "ab" * 20)
    mlflow.onnx.log_model(onnx.load(path), name="model", registered_model_name=name)
client = mlflow.MlflowClient()
version = max(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
if alias:
    client.set_registered_model_alias(name, alias, str(version))
print(version, run.info.run_id)
"""


class MlflowServer:
    """A running server. log: its model versions are made by MLflow's own client, in its environment."""

    def __init__(self, url: str, python: Path) -> None:
        self.url = url
        self._python = python

    def log(self, name: str, model: Path, alias: str = "") -> tuple[str, str]:
        """Log an ONNX model as the next version of a registered model; return version and run id."""
        done = subprocess.run(
            [str(self._python), "-I", "-c", LOG_MODEL, self.url, name, str(model), alias],
            capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        version, run_id = done.stdout.split()[-2:]
        return version, run_id

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
    log = folder / "mlflow.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, cwd=folder, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 400
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                if httpx.get(f"{url}/health", timeout=5).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield MlflowServer(url, python)
    finally:
        family = descendants(process.pid)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in family:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
