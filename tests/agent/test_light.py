"""agentd stays light: what it may not import, and what it may weigh when it is connected and idle."""

import os
import subprocess
import sys
from pathlib import Path

from tests.agent.field import Agent, eventually

HEAVY = (
    "numpy",
    "tuf",
    "securesystemslib",
    "cryptography",
    "onnxruntime",
    "tflite_runtime",
    "ai_edge_litert",
    "edgefleet_runtime",
)


def test_agentd_imports_nothing_heavy() -> None:
    code = "import sys, edgefleet_agent.__main__ as m, edgefleet_agent.daemon; m._parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []
    assert not {"importlib.metadata", "edgefleet_agent.client", "edgefleet_agent.enrolment.renew"} & set(loaded)


def test_the_install_child_has_no_http_client() -> None:
    code = "import sys, edgefleet_agent.verifier.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "tuf.ngclient.updater" in loaded
    assert not {"urllib3", "requests", "http.client", "urllib.request"} & set(loaded)


def test_what_paho_needs_for_a_proxy_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, edgefleet_agent.daemon; print('http.client' in sys.modules); import urllib.request; "
        "print(sorted(urllib.request.getproxies()), 'http.client' in sys.modules, type(urllib.request).__name__)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment["mqtt_proxy"] = "http://127.0.0.1:9"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["False", "['mqtt'] True module"]


def test_a_connected_idle_agent_keeps_within_its_memory(agent: Agent) -> None:
    agent.start()
    assert eventually(lambda: agent.status().get("connected") and agent.status().get("gen"))
    assert agent.process is not None
    lines = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    assert fields["Rss"] <= 36_000_000
    assert fields["Private_Clean"] + fields["Private_Dirty"] <= 24_000_000
