"""Programs of others that tests talk to, each in an environment of its own: made once, kept in the tests' cache."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.support.real_models import cache_folder

MLFLOW = ("mlflow==3.17.2", "onnx==1.23.2", "onnxruntime==1.32.0")
MOTO = ("moto[server,s3]==5.2.5",)
DVC = ("dvc==3.67.1",)
CHECK_JSONSCHEMA = ("check-jsonschema==0.39.0",)
HELM = ("helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0")
PODMAN_COMPOSE = ("podman-compose==1.6.0",)
HCL = ("python-hcl2==8.1.4",)


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """Return the Python of an environment that has these packages. Blocks while it is made; raises CalledProcessError offline."""
    folder = cache_folder() / "environments" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    stamp, wanted = folder / "requirements.txt", "\n".join(requirements)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, *requirements], check=True, capture_output=True)
            stamp.write_text(wanted)
    return folder / "bin" / "python"
